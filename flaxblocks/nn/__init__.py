"""Layers with PyTorch's semantics, in NHWC. Nothing above this package calls `jax.lax`."""

from flaxblocks.nn.activation import ACTIVATIONS, Activation, get_activation
from flaxblocks.nn.conv import Conv, conv2d
from flaxblocks.nn.drop import Dropout, StochasticDepth
from flaxblocks.nn.linear import Linear
from flaxblocks.nn.norm import NORMS, BatchNorm, GroupNorm, Norm, make_norm
from flaxblocks.nn.pool import (
    AvgPool,
    MaxPool,
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    max_pool,
)
from flaxblocks.nn.torch_names import TorchName

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "Dropout",
    "GroupNorm",
    "Linear",
    "MaxPool",
    "Norm",
    "StochasticDepth",
    "TorchName",
    "adaptive_avg_pool",
    "avg_pool",
    "conv2d",
    "get_activation",
    "global_avg_pool",
    "make_norm",
    "max_pool",
]
