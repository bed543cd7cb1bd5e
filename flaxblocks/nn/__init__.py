"""Layers with PyTorch's semantics, in NHWC. Only this package calls `jax.lax`.

`Conv`, `Linear` and `BatchNorm` do not derive from Flax's classes, so `isinstance(module,
nnx.Conv)` is False. Their arguments and attributes have PyTorch's meaning (a momentum of 0.1 is
Flax's 0.9, and the running variance is unbiased), so code that rebuilds a Flax layer from its
attributes would build a different layer. To find them in a model, look for `flaxblocks.nn.Conv` and
so on.

`flaxblocks.nn.layer` describes what a layer tells the converter, the summary and the diagrams, and
how to write a new layer.
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
