"""What Flax's own layers cannot say of themselves: one table.

A layer of a class that stands here, or of one derived from it, is converted, counted and drawn by
its row. A new layer of this package needs no row: it says all of it itself (`flaxblocks.nn.layer`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx

from flaxblocks.nn.counts import count_convolution, count_linear, count_norm, size
from flaxblocks.nn.titles import convolution_title
from flaxblocks.nn.torch_names import AFFINE, CONVOLUTION, LINEAR, TorchName

__all__ = ["FLAX_LAYERS", "FlaxLayer", "flax_layer"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FlaxLayer:
    """A row of the table.

    Attributes:
        multiply_adds: of a layer that gives one image of a shape; None where it cannot be told.
        torch_names: of its variables; None where PyTorch has no such layer.
        title: what it does; None for the name of its class.
    """

    multiply_adds: Callable[[Any, Shape], int | None]
    torch_names: tuple[TorchName, ...] | None = None
    title: Callable[[Any], str] | None = None


def flax_layer(module: object) -> FlaxLayer | None:
    """The row of a layer; None for what is none of Flax's."""
    kinds = type(module).__mro__
    return next((FLAX_LAYERS[kind] for kind in kinds if kind in FLAX_LAYERS), None)


def _conv(layer: nnx.Conv, shape: Shape) -> int:
    return count_convolution(layer.kernel, layer.bias, shape)


def _conv_title(layer: nnx.Conv) -> str:
    taps = layer.kernel_size
    strides = _per_axis(layer.strides, len(taps))
    return convolution_title(taps, layer.feature_group_count, layer.in_features, strides)


def _conv_transpose(layer: nnx.ConvTranspose, shape: Shape) -> int | None:
    """The whole kernel at each pixel of the input; None where that cannot be told from the output's
    size.
    """
    if not isinstance(layer.padding, str):
        return None
    window = layer.kernel_size
    steps, dilations = (_per_axis(n, len(window)) for n in (layer.strides, layer.kernel_dilation))
    pixels, lengths = 1, shape[-1 - len(window) : -1]
    for length, kernel, stride, dilation in zip(lengths, window, steps, dilations, strict=True):
        reach = (kernel - 1) * dilation + 1
        beyond = max(reach - stride, 0) if layer.padding == "VALID" else 0
        pixels *= int(length - beyond) // int(stride)
    bias = 0 if layer.bias is None else math.prod(shape)
    return pixels * math.prod(layer.kernel.shape) + bias


def _per_axis(number: int | Sequence[int] | None, axes: int) -> Sequence[int]:
    """Flax takes one for all of the axes, and None for 1."""
    return tuple(number) if isinstance(number, Sequence) else (number or 1,) * axes


def _linear(layer: nnx.Linear, shape: Shape) -> int:
    return count_linear(layer.kernel, layer.bias, shape)


def _linear_general(layer: nnx.LinearGeneral, shape: Shape) -> int:
    first = len(layer.batch_axis)
    summed = layer.kernel.shape[first : first + len(layer.in_features)]
    return math.prod(shape) * math.prod(summed) + size(layer.bias)


def _einsum(layer: nnx.Einsum, shape: Shape) -> int | None:
    """None where the input is summed by itself, or the axes have no names."""
    operands, result = (layer.einsum_str or ".,.->").split("->")
    image, kernel = operands.split(",")
    if "." in kernel or not set(image) <= set(kernel + result):
        return None
    summed = (n for name, n in zip(kernel, layer.kernel.shape, strict=True) if name not in result)
    return math.prod(shape) * math.prod(summed) + size(layer.bias)


def _low_rank(layer: nnx.LoRA, shape: Shape) -> int:
    """The layer that it adapts is counted by itself."""
    return math.prod(shape[:-1]) * (size(layer.lora_a) + size(layer.lora_b))


def _norm(layer: Any, _: Shape) -> int:
    return count_norm(getattr(layer, "scale", None), getattr(layer, "bias", None))


def _unknown(_: nnx.Module, __: Shape) -> None:
    """It has products of its own, though its parameters are all in the layers below it."""


FLAX_LAYERS: Mapping[type[nnx.Module], FlaxLayer] = {
    nnx.Conv: FlaxLayer(_conv, CONVOLUTION, _conv_title),
    nnx.ConvTranspose: FlaxLayer(_conv_transpose),
    nnx.Linear: FlaxLayer(_linear, LINEAR, lambda _: "linear"),
    nnx.LinearGeneral: FlaxLayer(_linear_general),
    nnx.Einsum: FlaxLayer(_einsum),
    nnx.LoRA: FlaxLayer(_low_rank),
    nnx.MultiHeadAttention: FlaxLayer(_unknown),
    nnx.BatchNorm: FlaxLayer(_norm),  # its statistics are none that PyTorch has
    nnx.GroupNorm: FlaxLayer(_norm, AFFINE),
    nnx.InstanceNorm: FlaxLayer(_norm, AFFINE),
    nnx.LayerNorm: FlaxLayer(_norm, AFFINE),
    nnx.RMSNorm: FlaxLayer(_norm, AFFINE),
}
