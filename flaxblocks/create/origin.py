"""The origin of a module: its registry row, and the checkpoint from which it was loaded.

The origin does not change what the module computes, so it must not distinguish modules: `nnx.jit`
compiles once per `graphdef`, and would recompile after each loading. So all `Origin` objects are
equal. The origin must also follow the module through `nnx.split`, `nnx.merge` and `nnx.clone`, so
it is stored in an attribute, `origin`. This is not sufficient: if equal modules share a
compilation, `nnx.jit` gives the second one the attributes of the first. So origins are also stored
in a weak dictionary by module, which takes precedence.
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
    """The origin of a module.

    Attributes:
        row: name of the registry row from which it was built; None for a module that is not a
            registered model or was built with other settings.
        layout: the layout of its checkpoint, or else of the row's library; None if there is none.
        report: the report of loading its checkpoint; None if none was loaded.
        weights: the `WeightEntry` of its published weights; None if it has others.
    """

    row: str | None = None
    layout: str | None = None
    report: LoadReport | None = None
    weights: Any = None

    def __eq__(self, other: object) -> bool:
        """True for any other origin."""
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)


_noted: WeakKeyDictionary[nnx.Module, Origin] = WeakKeyDictionary()


def origin_of(module: nnx.Module) -> Origin:
    """The origin of a module, or of the one from which it was copied."""
    carried = getattr(module, ATTRIBUTE, None)
    return _noted.get(module, carried if isinstance(carried, Origin) else Origin())


def remember(module: nnx.Module, **known: Any) -> None:
    """Set `row`, `layout`, `report` or `weights` in the origin of a module; others are kept."""
    origin = replace(origin_of(module), **known)
    _noted[module] = origin
    setattr(module, ATTRIBUTE, origin)
