"""Flags from dataclasses, the frame of a command, recipes, and the config that composes what the rooms declare."""
