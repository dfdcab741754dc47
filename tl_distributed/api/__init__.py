"""The Python API: what the commands do, as functions that return what they made. `tl_distributed` offers it lazily."""
