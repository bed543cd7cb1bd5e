"""Saving and going on, by Orbax: what a checkpoint holds, and what is known to be damage of one."""
