"""The functions that a pickle can call: our own, under the names that the file uses."""

from collections.abc import Callable
from dataclasses import dataclass

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.inert import Inert

__all__ = ["Builder", "Constructor", "inert"]

Builder = Callable[[tuple], object]


@dataclass(frozen=True, slots=True)
class Constructor:
    """A callable that is allowed: its name in the file, and our function that stands for it.

    `build` receives the tuple of positional arguments and returns None if torch never writes such.
    """

    name: str
    build: Builder

    def __call__(self, arguments: object) -> object:
        """Build the value. Raises: CheckpointError for arguments that torch does not write."""
        value = self.build(arguments) if type(arguments) is tuple else None
        if value is None:
            shown = quoted(self.name)[1:-1]
            raise CheckpointError(f"calls `{shown}` with arguments that it does not take")
        return value


def inert(name: str) -> Constructor:
    """A constructor of placeholders for a class or function that is never run."""
    return Constructor(name, lambda arguments: Inert(name, arguments))
