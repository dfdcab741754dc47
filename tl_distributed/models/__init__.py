"""Backbones, heads, their weights, and which of their layers train."""
