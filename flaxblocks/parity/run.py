"""What one framework computed in one precision, and what both must do alike to be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxblocks.convert.keymap import KeyMap, ModulePair
from flaxblocks.parity.report import Kind

__all__ = ["Mode", "Precision", "Run", "cotangent", "output_pairs", "tensors"]

Precision = Literal["bfloat16", "float32", "float64"]


class Mode(NamedTuple):
    """How a model runs.

    Attributes:
        train: by the statistics of the batch, which updates the buffers.
        grad: with the gradients of the parameters.
        whole: as one program that gives the output, buffers and gradients alone; else with the
            output of every module.
    """

    train: bool
    grad: bool
    whole: bool


@dataclass
class Run:
    """What one framework computed in one precision, by PyTorch name and in Flax's layout."""

    module: dict[str, np.ndarray] = field(default_factory=dict)
    buffer: dict[str, np.ndarray] = field(default_factory=dict)
    gradient: dict[str, np.ndarray] = field(default_factory=dict)

    def tensors(self, kind: Kind) -> dict[str, np.ndarray]:
        """The tensors of a kind, in PyTorch's forward order."""
        return getattr(self, kind)


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed tensor that turns an output into a scalar, in Flax's layout."""
    return np.random.default_rng(0).standard_normal(shape)


def output_pairs(keys: KeyMap, whole: bool) -> dict[str, ModulePair]:
    """Pairs of modules whose outputs are the same thing, by foreign name, of which the last holds;
    for a whole program the two models alone.
    """
    pairs = {"": ModulePair("", ""), **{pair.foreign: pair for pair in keys.modules}}
    return {"": pairs[""]} if whole else pairs


def tensors(name: str, output: Any) -> dict[str, Any]:
    """The tensors of an output: itself, or by `name[i]` those of a list, tuple or dict."""
    items = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(items, list | tuple):
        return {name: output}
    found: dict[str, Any] = {}
    for i, item in enumerate(items):
        found |= tensors(f"{name}[{i}]", item)
    return found
