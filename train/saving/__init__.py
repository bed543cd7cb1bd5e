"""Saving and resuming with Orbax: the contents of a checkpoint, and the detection of damage."""
