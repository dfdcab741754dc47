"""The measuring instrument behind `python -m tl_distributed.benchmark`."""
