"""What `python -m tl_distributed.doctor` looks at, and its report."""
