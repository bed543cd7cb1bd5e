"""A line on stderr that says what the command is doing, if stderr is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["working"]


@contextmanager
def working(task: str) -> Iterator[None]:
    """Show `task` on one line, which disappears when the `with` block ends."""
    from tqdm import tqdm

    with tqdm(total=0, desc=task, bar_format="{desc} ...", leave=False, disable=None):
        yield
