"""`to_torch`: the PyTorch state dict of a module."""

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
    """Return the PyTorch state dict of a module, with PyTorch's keys, order, shapes and dtypes.

    If PyTorch needs more than arrays to load it, as for torchvision's MNASNet, the state dict has
    the attribute `_metadata`, as in PyTorch, which `write_checkpoint` keeps in a `.pth`.

    Args:
        model: any module with a key map, such as a registered model or a single block.
        layout: the layout of the state dict; "auto" is that of the checkpoint from which the module
            was loaded, or else the module's default.
        strict: refuse a module with variables for which the layout has no name, such as those of a
            user's own layers; with False they are left out, and a warning lists them.
        as_tensors: return an `OrderedDict` of torch tensors, ready for `load_state_dict`. Needs
            torch.
        dialect: an older name of `layout`.

    Raises: ValueError if the module has no such layout, or `model` is not a Flax module.
    Warns: UserWarning if the library of the layout builds the network with other settings, such as
        another epsilon, which a state dict does not contain.
    """
    check_module("model", model)
    layout = dialect or layout
    layout = own_layout(model) if layout == AUTO else layout
    keys = key_map(model, layout, strict)
    warn_of_other_settings(model, layout, "the same weights give different results there")
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
    """The layout for "auto": that of the checkpoint of the module, or else its default."""
    return origin_of(model).layout or layouts_of(model)[0]


def _tensors(state: Mapping[str, np.ndarray]) -> "OrderedDict[str, Any]":
    import torch

    tensors = OrderedDict((key, _tensor(torch, array)) for key, array in state.items())
    if versions := versions_of(state):
        setattr(tensors, METADATA, versions)
    return tensors


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """The tensor of an array, in the same memory unless NumPy itself lacks the dtype."""
    from flaxblocks.checkpoints.torch_dtypes import row_of

    row = row_of(array.dtype)
    if row is None or not row.is_of_ml_dtypes:
        return torch.from_numpy(array)
    words = torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
    return words.view(getattr(torch, row.torch)).reshape(array.shape)
