"""Creating a model from a registry row, its settings and a checkpoint."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` returns
    from flaxblocks.create.create import create_model

__all__ = ["create_model"]


def __getattr__(name: str) -> Any:
    if name == "create_model":
        from flaxblocks.create.create import create_model

        return create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
