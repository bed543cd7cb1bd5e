"""What the command is busy with, on stderr, and only where stderr is a terminal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["counted", "working"]

T = TypeVar("T")


def counted(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """The items, with a bar that shows how many of `total` have come."""
    from tqdm import tqdm

    return iter(tqdm(items, total=total, unit=f" {unit}", leave=False, disable=None))


@contextmanager
def working(task: str) -> Iterator[None]:
    """Show `task` in one line that disappears when the block ends."""
    from tqdm import tqdm

    with tqdm(total=0, desc=task, bar_format="{desc} ...", leave=False, disable=None):
        yield
