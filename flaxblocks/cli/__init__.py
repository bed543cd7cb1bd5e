"""The `flaxblocks` command."""

from flaxblocks.cli.main import main

__all__ = ["main"]
