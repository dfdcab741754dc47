"""What a run runs on: devices, the processes that train together, and what connects them."""
