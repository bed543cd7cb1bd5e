"""PyTorch's version numbers of modules, which a state dict carries as `_metadata`."""

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
    """The arrays as a state dict of `module` in one of its layouts, with the version as metadata.

    A module's class gives the version that the PyTorch original requires as `state_dict_version`,
    layout -> number: torchvision's MNASNet loads no state dict without it.
    """
    version = getattr(module, "state_dict_version", {}).get(layout)
    state = OrderedDict(arrays)
    if version is not None:
        setattr(state, METADATA, OrderedDict({"": {"version": version}}))
    return state


def versions_of(arrays: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """The versions in a state dict: path of a module ("" for the whole) -> {"version": number}.

    Empty if it has none.
    """
    return getattr(arrays, METADATA, {})
