"""How Flax's own layers are converted, counted and drawn: one table.

A row applies to its class and all classes derived from it. A new layer of this package needs no
row, because it declares all of this itself (`flaxblocks.nn.layer`).
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
        multiply_adds: called with a layer and the shape of its output for one image; returns None
            if the count does not follow from these.
        torch_names: PyTorch's names of its variables; None if PyTorch has no such layer.
        title: gives a layer's short description; None means the name of its class.
    """

    multiply_adds: Callable[[Any, Shape], int | None]
    torch_names: tuple[TorchName, ...] | None = None
    title: Callable[[Any], str] | None = None


def flax_layer(module: object) -> FlaxLayer | None:
    """The row of a layer; None if its class is not derived from one in the table."""
    kinds = type(module).__mro__
    return next((FLAX_LAYERS[kind] for kind in kinds if kind in FLAX_LAYERS), None)


def _conv(layer: nnx.Conv, shape: Shape) -> int:
    return count_convolution(layer.kernel, layer.bias, shape)


def _conv_title(layer: nnx.Conv) -> str:
    taps = layer.kernel_size
    strides = _per_axis(layer.strides, len(taps))
    return convolution_title(taps, layer.feature_group_count, layer.in_features, strides)


def _conv_transpose(layer: nnx.ConvTranspose, shape: Shape) -> int | None:
    """The size of the kernel per pixel of the input; None if the output's shape does not give the
    input's.
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
    """One number per axis; Flax takes a single number for all axes, and None for 1."""
    return tuple(number) if isinstance(number, Sequence) else (number or 1,) * axes


def _linear(layer: nnx.Linear, shape: Shape) -> int:
    return count_linear(layer.kernel, layer.bias, shape)


def _linear_general(layer: nnx.LinearGeneral, shape: Shape) -> int:
    first = len(layer.batch_axis)
    summed = layer.kernel.shape[first : first + len(layer.in_features)]
    return math.prod(shape) * math.prod(summed) + size(layer.bias)


def _einsum(layer: nnx.Einsum, shape: Shape) -> int | None:
    """Products and biases; None if an input axis is summed alone or the axes have no names."""
    operands, result = (layer.einsum_str or ".,.->").split("->")
    image, kernel = operands.split(",")
    if "." in kernel or not set(image) <= set(kernel + result):
        return None
    summed = (n for name, n in zip(kernel, layer.kernel.shape, strict=True) if name not in result)
    return math.prod(shape) * math.prod(summed) + size(layer.bias)


def _low_rank(layer: nnx.LoRA, shape: Shape) -> int:
    """The two low-rank factors only; the layer that they adapt is counted separately."""
    return math.prod(shape[:-1]) * (size(layer.lora_a) + size(layer.lora_b))


def _norm(layer: Any, _: Shape) -> int:
    return count_norm(getattr(layer, "scale", None), getattr(layer, "bias", None))


def _unknown(_: nnx.Module, __: Shape) -> None:
    """None: attention has products of its own, although all its parameters are in submodules."""


FLAX_LAYERS: Mapping[type[nnx.Module], FlaxLayer] = {
    nnx.Conv: FlaxLayer(_conv, CONVOLUTION, _conv_title),
    nnx.ConvTranspose: FlaxLayer(_conv_transpose),
    nnx.Linear: FlaxLayer(_linear, LINEAR, lambda _: "linear"),
    nnx.LinearGeneral: FlaxLayer(_linear_general),
    nnx.Einsum: FlaxLayer(_einsum),
    nnx.LoRA: FlaxLayer(_low_rank),
    nnx.MultiHeadAttention: FlaxLayer(_unknown),
    nnx.BatchNorm: FlaxLayer(_norm),  # its biased running variance has no equivalent in PyTorch
    nnx.GroupNorm: FlaxLayer(_norm, AFFINE),
    nnx.InstanceNorm: FlaxLayer(_norm, AFFINE),
    nnx.LayerNorm: FlaxLayer(_norm, AFFINE),
    nnx.RMSNorm: FlaxLayer(_norm, AFFINE),
}
