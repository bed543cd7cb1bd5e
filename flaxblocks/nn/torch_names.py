"""PyTorch's names for the variables of a layer, and the order of their axes."""

from typing import NamedTuple

__all__ = ["AFFINE", "BATCH_NORM", "CONVOLUTION", "LINEAR", "TorchName"]


class TorchName(NamedTuple):
    """The names and axes of one variable in both frameworks.

    Attributes:
        native: name of the attribute of the Flax layer.
        foreign: name in PyTorch's layer.
        axes: the native axes in PyTorch's order; None if the order is the same.
    """

    native: str
    foreign: str
    axes: tuple[int, ...] | None = None


# Each tuple is in the order of PyTorch's state dict.
_BIAS = TorchName("bias", "bias")
CONVOLUTION = (TorchName("kernel", "weight", (3, 2, 0, 1)), _BIAS)  # HWIO -> OIHW
LINEAR = (TorchName("kernel", "weight", (1, 0)), _BIAS)
AFFINE = (TorchName("scale", "weight"), _BIAS)
BATCH_NORM = (
    *AFFINE,
    TorchName("mean", "running_mean"),
    TorchName("var", "running_var"),
    TorchName("num_batches_tracked", "num_batches_tracked"),
)
