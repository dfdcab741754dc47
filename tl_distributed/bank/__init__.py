"""The feature bank: what frozen layers make of each image, computed once."""
