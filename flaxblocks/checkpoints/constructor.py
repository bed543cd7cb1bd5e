"""What a pickle may call: functions of ours under the names that the file gives."""

from collections.abc import Callable
from dataclasses import dataclass

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.inert import Inert

__all__ = ["Builder", "Constructor", "inert"]

Builder = Callable[[tuple], object]


@dataclass(frozen=True, slots=True)
class Constructor:
    """An admitted callable: its name in the file, and our function of its positional arguments."""

    name: str
    build: Builder

    def __call__(self, arguments: object) -> object:
        """The value, or a CheckpointError if the arguments are not such as torch writes."""
        value = self.build(arguments) if type(arguments) is tuple else None
        if value is None:
            shown = quoted(self.name)[1:-1]
            raise CheckpointError(f"calls `{shown}` with arguments that it does not take")
        return value


def inert(name: str) -> Constructor:
    """The constructor of values that are of no use here."""
    return Constructor(name, lambda arguments: Inert(name, arguments))
