"""The state dict of a whole pickled model, from the pickled attributes of its modules.

`torch.nn.Module` keeps its parameters, buffers and children in plain dicts, `_parameters`,
`_buffers` and `_modules`; the classes themselves are not needed.
"""

from collections.abc import Mapping
from typing import Any

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.inert import Inert

__all__ = ["attributes_of", "is_module", "state_of_module"]

MOST_MODULES = 100_000
DEEPEST = 100


def attributes_of(value: object) -> Mapping[Any, Any] | None:
    """The attributes of an object that was pickled, or None."""
    if not isinstance(value, Inert):
        return None
    state = value.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
        state = state[0]  # the other element holds slots
    if isinstance(state, dict):
        return state
    first = value.arguments[0] if value.arguments else None  # torch.fx passes them as an argument
    return first if isinstance(first, dict) and "_modules" in first else None


def is_module(value: object) -> bool:
    """Whether an object was a `torch.nn.Module` when it was pickled."""
    attributes = attributes_of(value)
    return attributes is not None and all(
        isinstance(attributes.get(key), dict) for key in ("_parameters", "_buffers", "_modules")
    )


def state_of_module(model: object) -> dict[str, Any]:
    """What `model.state_dict()` returns: parameters, persistent buffers, then those of children.

    Raises: CheckpointError for a tree that no model has: one that contains itself or is far too
        large.
    """
    state: dict[str, Any] = {}
    stack: list[tuple[str, object, int]] = [("", model, 0)]
    modules = 0
    while stack:
        prefix, module, depth = stack.pop()
        modules += 1
        if modules > MOST_MODULES or depth > DEEPEST or len(prefix) > 10_000:
            raise CheckpointError("holds a whole pickled model that is too deep or endless")
        attributes = attributes_of(module) or {}
        fleeting = _members(attributes.get("_non_persistent_buffers_set"))
        for kind in ("_parameters", "_buffers"):
            for name, value in _items(attributes.get(kind)):
                if value is not None and not (kind == "_buffers" and name in fleeting):
                    state[prefix + name] = value
        children = [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in _items(attributes.get("_modules"))
            if is_module(child)
        ]
        stack.extend(reversed(children))
    return state


def _items(mapping: object) -> list[tuple[str, Any]]:
    if not isinstance(mapping, dict):
        return []
    return [(name, value) for name, value in mapping.items() if isinstance(name, str)]


def _members(names: object) -> list:
    """The members of a pickled set, which older protocols write as `set([...])`."""
    if not isinstance(names, Inert):
        return []
    given = names.arguments[0] if names.arguments else []
    return [*(names.members or []), *(given if isinstance(given, list) else [])][:10_000]
