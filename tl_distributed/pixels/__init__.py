"""On-device image operations: pure functions of (images, seeds) that compile under XLA."""
