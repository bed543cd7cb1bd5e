"""What the command is busy with, on stderr, and only where stderr is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["working"]


@contextmanager
def working(task: str) -> Iterator[None]:
    """Show `task` in one line that disappears when the block ends."""
    from tqdm import tqdm

    with tqdm(total=0, desc=task, bar_format="{desc} ...", leave=False, disable=None):
        yield
