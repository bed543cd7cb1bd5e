"""`python -m flaxblocks` is the `flaxblocks` command."""

from flaxblocks.cli.main import main

main()
