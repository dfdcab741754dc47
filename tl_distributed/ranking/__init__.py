"""Which backbone? Frozen features of a sample of the data set, and what simple probes make of them."""
