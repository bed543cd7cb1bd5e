"""The multiply-adds of a layer, from its parameters and the shape of its output.

The convention is that of the published counts: the taps of a convolution and its bias at each
number of the output, the products of a linear layer, and 1 for each of its biases and each
parameter of a norm.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from flaxblocks.nn.conv import Conv
from flaxblocks.nn.linear import Linear
from flaxblocks.nn.norm import BatchNorm

__all__ = ["multiply_adds", "own_parameters"]

Shape = tuple[int, ...]


def multiply_adds(module: nnx.Module, shape: Shape) -> int | None:
    """Of one layer, without what lies below it.

    Args:
        module: any; concrete or abstract.
        shape: of its output for one image, without the batch axis.

    Returns: 0 for a module without parameters of its own; None where no rule is known.
    """
    rule = next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)
    if rule is not None:
        return rule(module, shape)
    return None if own_parameters(module) else 0


def own_parameters(module: nnx.Module) -> int:
    """How many numbers of its parameters lie in no layer below it, but in itself or a list of
    its.
    """
    own, seen, pending = 0, {id(module)}, list(_attributes(module))
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, nnx.Param):
            own += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(node))
        elif not (isinstance(node, nnx.Module) and callable(node)):
            pending += _attributes(node)
    return own


def _attributes(node: Any) -> Iterable[Any]:
    """What a module or a container holds; nothing of anything else."""
    if isinstance(node, nnx.Module):
        return vars(node).values()
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list | tuple) else ()


def _size(variable: nnx.Variable | None) -> int:
    return 0 if variable is None else math.prod(variable.shape)


def _conv(layer: Conv | nnx.Conv, shape: Shape) -> int:
    taps = math.prod(layer.kernel.shape[:-1])  # its channels are those of one group
    return math.prod(shape) * (taps + (layer.bias is not None))


def _linear(layer: Linear | nnx.Linear, shape: Shape) -> int:
    return math.prod(shape) * layer.kernel.shape[0] + _size(layer.bias)


def _norm(layer: nnx.Module, _: Shape) -> int:
    return _size(getattr(layer, "scale", None)) + _size(getattr(layer, "bias", None))


def _linear_general(layer: nnx.LinearGeneral, shape: Shape) -> int:
    first = len(layer.batch_axis)
    summed = layer.kernel.shape[first : first + len(layer.in_features)]
    return math.prod(shape) * math.prod(summed) + _size(layer.bias)


def _einsum(layer: nnx.Einsum, shape: Shape) -> int | None:
    """None where the input is summed by itself, or the axes have no names."""
    operands, result = (layer.einsum_str or ".,.->").split("->")
    image, kernel = operands.split(",")
    if "." in kernel or not set(image) <= set(kernel + result):
        return None
    summed = (n for name, n in zip(kernel, layer.kernel.shape, strict=True) if name not in result)
    return math.prod(shape) * math.prod(summed) + _size(layer.bias)


def _conv_transpose(layer: nnx.ConvTranspose, shape: Shape) -> int | None:
    """The whole kernel at each pixel of the input; None where that cannot be told from the output's
    size.
    """
    if not isinstance(layer.padding, str):
        return None
    size = layer.kernel_size
    steps, dilations = (
        tuple(n) if isinstance(n, Sequence) else (n or 1,) * len(size)
        for n in (layer.strides, layer.kernel_dilation)
    )
    pixels, lengths = 1, shape[-1 - len(size) : -1]
    for length, kernel, stride, dilation in zip(lengths, size, steps, dilations, strict=True):
        reach = (kernel - 1) * dilation + 1
        beyond = max(reach - stride, 0) if layer.padding == "VALID" else 0
        pixels *= int(length - beyond) // int(stride)
    bias = 0 if layer.bias is None else math.prod(shape)
    return pixels * math.prod(layer.kernel.shape) + bias


def _low_rank(layer: nnx.LoRA, shape: Shape) -> int:
    """The layer that it adapts is counted by itself."""
    return math.prod(shape[:-1]) * (_size(layer.lora_a) + _size(layer.lora_b))


def _unknown(_: nnx.Module, __: Shape) -> None:
    """It has products of its own, though its parameters are all in the layers below it."""


RULES: Mapping[type[nnx.Module], Callable[..., int | None]] = {
    Conv: _conv,
    Linear: _linear,
    BatchNorm: _norm,
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    nnx.Linear: _linear,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: _einsum,
    nnx.LoRA: _low_rank,
    nnx.MultiHeadAttention: _unknown,
    nnx.BatchNorm: _norm,
    nnx.GroupNorm: _norm,
    nnx.InstanceNorm: _norm,
    nnx.LayerNorm: _norm,
    nnx.RMSNorm: _norm,
}
