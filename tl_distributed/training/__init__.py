"""The training engine: step, loop, phases, optimizer, schedules, checkpoints."""
