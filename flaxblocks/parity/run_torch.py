"""The PyTorch side of a comparison: a module run in one precision, its tensors in Flax's axes.

Imports torch when called.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flaxblocks.convert.keymap import Entry, KeyMap, ModulePair
from flaxblocks.parity.report import relative_error
from flaxblocks.parity.run import Mode, Precision, Run, cotangent, output_pairs, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["run_torch"]


def run_torch(
    model: "nn.Module",
    keys: KeyMap,
    x: np.ndarray,
    precision: Precision,
    mode: Mode,
    ours: Mapping[str, np.ndarray],
) -> Run:
    """Run a copy of `model` on `x`, which is in Flax's layout.

    In bfloat16, parameters, buffers and image all have that dtype. `ours` are the outputs of the
    Flax model, which determine the axis order of PyTorch's.
    """
    import torch

    dtype = getattr(torch, precision)
    model = copy.deepcopy(model).to("cpu", dtype).train(mode.train)
    for module in model.modules():
        if any(word in type(module).__name__ for word in ("Drop", "StochasticDepth")):
            module.eval()
    pairs = output_pairs(keys, mode.whole)
    run = Run()

    def record(pair: ModulePair):
        def hook(_module, _inputs, output) -> None:  # cloned: the next layer may work in place
            for name, part in tensors(pair.foreign, output).items():
                theirs = _numbers(part.clone())
                order = _order(theirs, ours.get(name), pair.stored_as)
                run.module[name] = _laid(theirs, order, pair.stored_as)

        return hook

    hooks = [
        m.register_forward_hook(record(pairs[name]))
        for name, m in model.named_modules()
        if name in pairs
    ]
    with torch.set_grad_enabled(mode.grad):
        y = model(torch.from_numpy(x).to(dtype).permute(0, 3, 1, 2).contiguous())
    for hook in hooks:
        hook.remove()
    entries = keys.by_foreign
    if mode.train:
        run.buffer = {
            name: _native(entries[name], b) for name, b in model.named_buffers() if name in entries
        }
    if mode.grad:
        loss = torch.zeros((), dtype=dtype)
        for name, part in tensors("", y).items():
            order = _order(_numbers(part), ours.get(name))
            weights = cotangent(tuple(part.shape[axis] for axis in order))
            weights = weights.transpose(np.argsort(order))
            loss = loss + (part * torch.from_numpy(weights).to(dtype)).sum()
        loss.backward()
        for name, p in model.named_parameters():
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            run.gradient[name] = _native(entries[name], gradient)
            p.grad = None  # memory may hold a large model only once
    return run


def _order(
    theirs: np.ndarray, ours: np.ndarray | None, stored_as: str | None = None
) -> tuple[int, ...]:
    """The axes of a PyTorch output in the order of ours.

    Channels are its second axis or, in modules that permute as ConvNeXt's do, its last: whichever
    gives our shape. If both do, because height, width and channels are equal, the order with values
    nearer to ours is used: correct values agree in one order only, and wrong ones in neither. If
    neither does, or there is no output of ours, images have their channels second.
    """
    as_is = tuple(range(theirs.ndim))
    orders = [as_is] if theirs.ndim < 3 else [(0, *as_is[2:], 1), as_is]
    if theirs.ndim == 3:  # tokens
        orders.reverse()
    laid = {order: _laid(theirs, order, stored_as) for order in orders}
    fitting = [order for order in orders if ours is not None and laid[order].shape == ours.shape]
    if ours is None or len(fitting) < 2:
        return (fitting or orders)[0]
    return min(fitting, key=lambda order: relative_error(laid[order], ours))


def _laid(array: np.ndarray, order: tuple[int, ...], stored_as: str | None) -> np.ndarray:
    """A PyTorch output with its axes in `order`, and with axes added or removed where PyTorch has a
    linear layer for our 1x1 convolution or the reverse.
    """
    array = array.transpose(order)
    if stored_as == "conv1x1" and array.ndim == 4 and array.shape[1:3] == (1, 1):
        return array[:, 0, 0]
    return array[:, None, None] if stored_as == "linear" and array.ndim == 2 else array


def _native(entry: Entry, tensor: "Tensor") -> np.ndarray:
    return entry.to_native(_numbers(tensor))


def _numbers(tensor: "Tensor") -> np.ndarray:
    """A tensor as a NumPy array; bfloat16, which NumPy lacks, becomes float32 without loss."""
    is_bfloat16 = str(tensor.dtype) == "torch.bfloat16"
    return (tensor.float() if is_bfloat16 else tensor).detach().numpy()
