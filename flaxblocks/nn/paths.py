"""Look up modules and variables by dotted paths such as `blocks.3.expand.conv`."""

from typing import Any

from flax import nnx

__all__ = ["descend"]


def descend(module: nnx.Module, path: str) -> Any:
    """The module or variable at a dotted path; None if a step of the path is None.

    Raises: AttributeError, IndexError, KeyError or TypeError if the path does not exist.
    """
    node: Any = module
    for step in filter(None, path.split(".")):
        if node is None:
            return None
        node = node[int(step)] if step.isdecimal() else getattr(node, step)
    return node
