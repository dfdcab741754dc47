"""The host's device."""

HOST = "/cpu:0"  # where the order, whole batches and counters are: only a replica's own part goes to its device
