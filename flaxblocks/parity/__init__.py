"""Compare a Flax model with its PyTorch original: every module, buffer and gradient, with PyTorch's
float64 result as the truth.
"""

from flaxblocks.parity.compare import compare
from flaxblocks.parity.report import (
    BFLOAT16_FACTOR,
    BOUNDS,
    FLOAT32_FACTOR,
    ParityReport,
    Row,
    relative_error,
)

__all__ = [
    "BFLOAT16_FACTOR",
    "BOUNDS",
    "FLOAT32_FACTOR",
    "ParityReport",
    "Row",
    "compare",
    "relative_error",
]
