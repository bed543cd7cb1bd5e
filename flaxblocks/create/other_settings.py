"""Warnings for moving weights to a layout whose library builds the network with other settings.

A state dict does not contain an epsilon or a padding: the same numbers give different results
there, and nothing in the file shows it.
"""

import warnings

from flax import nnx

from flaxblocks.create.origin import origin_of
from flaxblocks.create.rows import said_by_layout
from flaxblocks.models.registry import ModelEntry, find_model

__all__ = ["other_settings", "warn_of_other_settings"]


def other_settings(entry: ModelEntry, layout: str) -> str | None:
    """How the network of a layout's library differs from a row, such as `timm's
    mobilenetv3_small_100 has norm_eps=1e-05 where mobilenet_v3_small has 0.001`; None if it does
    not.
    """
    other = find_model(entry.in_layout.get(layout, entry.name))
    there = {**other.settings, **said_by_layout(other, layout)}
    here = entry.settings
    differing = [
        f"{name}={there[name]!r} where {entry.name} has {value!r}"
        for name, value in here.items()
        if there[name] != value
    ]
    whose = f"{layout}'" if layout.endswith("s") else f"{layout}'s"
    return f"{whose} {other.name} has {', '.join(differing)}" if differing else None


def warn_of_other_settings(module: nnx.Module, layout: str, consequence: str) -> None:
    """Warn if `module` was built from a row with other settings than the library of `layout`, and
    append `consequence`.
    """
    row = origin_of(module).row
    difference = None if row is None else other_settings(find_model(row), layout)
    if difference is not None:
        warnings.warn(f"{difference}: {consequence}", stacklevel=3)
