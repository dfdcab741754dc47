"""Readers of the record data sets that `data_prep` writes."""
