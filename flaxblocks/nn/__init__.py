"""Layers with PyTorch's semantics, in NHWC. Nothing above this package calls `jax.lax`.

`Conv`, `Linear` and `BatchNorm` are none of Flax's classes, and `isinstance(module, nnx.Conv)` is
False: their arguments and attributes mean what they mean in PyTorch (a momentum of 0.1 is Flax's
0.9, and the running variance is unbiased), and what rebuilds a Flax layer from its attributes would
build another one. To find them in a model, ask for `flaxblocks.nn.Conv` and so on.

What a layer tells the converter, the summary and the pictures, and how a new one does:
`flaxblocks.nn.layer`.
"""

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
