"""PyTorch's record of the version of a module, which its state dicts carry as `_metadata`."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the writer of files needs no flax
    from flax import nnx

__all__ = ["METADATA", "versions_of", "with_versions"]

METADATA = "_metadata"  # the attribute of an `OrderedDict`, in memory and in a `.pth`


def with_versions(
    arrays: Mapping[str, np.ndarray], module: "nnx.Module", layout: str
) -> dict[str, np.ndarray]:
    """The arrays as a state dict of `module` in one of its layouts.

    Where the module's class has `state_dict_version`, layout -> number, that is what the original
    asks for when it loads: torchvision's MNASNet takes no state dict without.
    """
    version = getattr(module, "state_dict_version", {}).get(layout)
    state = OrderedDict(arrays)
    if version is not None:
        setattr(state, METADATA, OrderedDict({"": {"version": version}}))
    return state


def versions_of(arrays: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """Path of a module, "" for the whole -> {"version": number}; empty where there are none."""
    return getattr(arrays, METADATA, {})
