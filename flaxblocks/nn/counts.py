"""The multiply-adds of a kind of layer, from its parameters and the shape of its output.

The convention is that of the published counts: the taps of a convolution and its bias at each
number of the output, the products of a linear layer, and 1 for each of its biases and each
parameter of a norm. A shape is that of the output for one image, without the batch axis.
"""

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["count_convolution", "count_linear", "count_norm", "size"]


def size(variable: Any) -> int:
    """How many numbers a variable has; none for None."""
    return 0 if variable is None else math.prod(variable.shape)


def count_convolution(kernel: Any, bias: Any, shape: Sequence[int]) -> int:
    """For a kernel `(*taps, in_features // groups, out_features)`."""
    taps = math.prod(kernel.shape[:-1])
    return math.prod(shape) * (taps + (bias is not None))


def count_linear(kernel: Any, bias: Any, shape: Sequence[int]) -> int:
    """For a kernel `(in_features, out_features)`."""
    return math.prod(shape) * kernel.shape[0] + size(bias)


def count_norm(scale: Any, bias: Any) -> int:
    """Whatever the image."""
    return size(scale) + size(bias)
