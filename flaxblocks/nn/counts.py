"""The multiply-adds of a layer, from its parameters and the shape of its output.

The convention is that of the published counts. A convolution counts its taps, plus 1 for a bias,
per value of the output; a linear layer counts its products, plus 1 per bias parameter; a norm
counts 1 per parameter. `shape` is that of the output for one image, without the batch axis.
"""

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["count_convolution", "count_linear", "count_norm", "size"]


def size(variable: Any) -> int:
    """The number of values in a variable; 0 for None."""
    return 0 if variable is None else math.prod(variable.shape)


def count_convolution(kernel: Any, bias: Any, shape: Sequence[int]) -> int:
    """Multiply-adds of a convolution with kernel `(*taps, in_features // groups, out_features)`."""
    taps = math.prod(kernel.shape[:-1])
    return math.prod(shape) * (taps + (bias is not None))


def count_linear(kernel: Any, bias: Any, shape: Sequence[int]) -> int:
    """Multiply-adds of a linear layer with kernel `(in_features, out_features)`."""
    return math.prod(shape) * kernel.shape[0] + size(bias)


def count_norm(scale: Any, bias: Any) -> int:
    """Multiply-adds of a norm, which do not depend on the image."""
    return size(scale) + size(bias)
