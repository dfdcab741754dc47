"""What is measured: each module makes one contender, in a process of its own (see `benchmarks.child`)."""
