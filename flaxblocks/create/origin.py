"""What a module remembers of where it comes from: its registry row, and the layout of the
checkpoint that it was loaded from.

Neither changes what the module computes, so neither may tell two modules apart: `nnx.jit` compiles
once for each `graphdef`, and would compile again after each loading. So every `Origin` is equal to
every other. It must still follow the module through `nnx.split`, `nnx.merge` and `nnx.clone`, and
therefore lies in an attribute, `origin`. That alone would not do: where equal modules share a
compilation, `nnx.jit` gives the second one the attributes of the first. So the modules themselves
are noted too, and what is noted of a module comes first.
"""

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from flax import nnx

from flaxblocks.create.report import LoadReport

__all__ = ["Origin", "origin_of", "remember"]

ATTRIBUTE = "origin"


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a module comes from.

    Attributes:
        row: the registry row that it was built from; None for a module that is no registered model.
        layout: whose naming its checkpoint was in, or its row's library has; None if there is none.
        report: what was done when it was loaded; None if it was not.
        weights: the `WeightEntry` of the published weights that it has; None if it has others.
    """

    row: str | None = None
    layout: str | None = None
    report: LoadReport | None = None
    weights: Any = None

    def __eq__(self, other: object) -> bool:
        """True for every other one."""
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)


_noted: WeakKeyDictionary[nnx.Module, Origin] = WeakKeyDictionary()


def origin_of(module: nnx.Module) -> Origin:
    """What is remembered of a module, or of what it was copied from."""
    carried = getattr(module, ATTRIBUTE, None)
    return _noted.get(module, carried if isinstance(carried, Origin) else Origin())


def remember(module: nnx.Module, **known: Any) -> None:
    """Note `row`, `layout`, `report` or `weights` of a module; what is not given stays."""
    origin = replace(origin_of(module), **known)
    _noted[module] = origin
    setattr(module, ATTRIBUTE, origin)
