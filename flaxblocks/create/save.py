"""A module's PyTorch state dict, and state dicts from one layout into another."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from flaxblocks.checkpoints.module_versions import METADATA, versions_of
from flaxblocks.convert.fill import state_of
from flaxblocks.convert.fit import AUTO
from flaxblocks.convert.keymap import KeyMap, key_map, layouts_of, variables_of
from flaxblocks.create.origin import origin_of
from flaxblocks.create.other_settings import warn_of_other_settings
from flaxblocks.nn.arguments import check_module

__all__ = ["own_layout", "to_torch"]


def to_torch(
    model: nnx.Module,
    layout: str = AUTO,
    *,
    strict: bool = True,
    as_tensors: bool = False,
    dialect: str | None = None,
) -> dict[str, Any]:
    """The PyTorch state dict of a module: its keys, order, shapes and dtypes.

    Where PyTorch asks for more than arrays, as for torchvision's MNASNet, it has the attribute
    `_metadata` as PyTorch's own, which a `.pth` of it keeps.

    Args:
        model: any module with a key map.
        layout: whose naming to give; "auto" is the one that the module was loaded from, else its
            own.
        strict: refuse a module with variables that the layout has no name for, such as a user's own
            layers; with False they are left out, and a warning lists them.
        as_tensors: give torch's tensors, an `OrderedDict` that goes into `load_state_dict` as it
            is. Needs torch.
        dialect: an older name of `layout`.

    Raises: ValueError if the module has no such layout, or `model` is no module.
    Warns: UserWarning if the library of that layout gives the network other settings, such as
        another epsilon, which no state dict holds.
    """
    check_module("model", model)
    layout = dialect or layout
    layout = own_layout(model) if layout == AUTO else layout
    keys = key_map(model, layout, strict)
    warn_of_other_settings(model, layout, "the same weights give other results there")
    state = state_of(model, keys)
    if not strict:
        _warn_of_unnamed(model, keys)
    return _tensors(state) if as_tensors else state


def _warn_of_unnamed(model: nnx.Module, keys: KeyMap) -> None:
    named = {entry.native for entry in keys.entries}
    left = [path for path in variables_of(model) if path not in named]
    if left:
        warnings.warn(
            f"layout {keys.layout!r} has no name for {', '.join(left)}: left out", stacklevel=3
        )


def own_layout(model: nnx.Module) -> str:
    """What "auto" writes: the layout that the module was loaded from, else its own."""
    return origin_of(model).layout or layouts_of(model)[0]


def _tensors(state: Mapping[str, np.ndarray]) -> "OrderedDict[str, Any]":
    import torch

    tensors = OrderedDict((key, _tensor(torch, array)) for key, array in state.items())
    if versions := versions_of(state):
        setattr(tensors, METADATA, versions)
    return tensors


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """In the same memory; dtypes that NumPy lacks by their bytes."""
    from flaxblocks.checkpoints.torch_dtypes import row_of

    row = row_of(array.dtype)
    if row is None or not row.is_of_ml_dtypes:
        return torch.from_numpy(array)
    words = torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
    return words.view(getattr(torch, row.torch)).reshape(array.shape)
