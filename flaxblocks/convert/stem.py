"""Adapting the first convolution of a network to another number of channels than RGB's."""

import numpy as np

__all__ = ["RGB", "adapt_input_channels"]

RGB = 3


def adapt_input_channels(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    """Adapt a kernel for RGB images to `in_channels`, as timm adapts published weights.

    For one channel, the three are summed, so that a grey image gives the same output as in RGB. For
    other numbers, the three are repeated in order and scaled by 3 / in_channels, so that the output
    keeps its magnitude.

    Args:
        kernel: `(kh, kw, 3, O)`.
        in_channels: at least 1.

    Returns: `(kh, kw, in_channels, O)` in the dtype of `kernel`, computed in float32 at least.
    """
    wide = kernel.astype(np.result_type(kernel.dtype, np.float32))
    if in_channels == 1:
        return wide.sum(axis=2, keepdims=True).astype(kernel.dtype)
    repeated = np.take(wide, np.arange(in_channels) % RGB, axis=2)
    return (repeated * (RGB / in_channels)).astype(kernel.dtype)
