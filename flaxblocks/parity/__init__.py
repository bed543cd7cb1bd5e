"""Hold a Flax model against its PyTorch original: every module, buffer and gradient, against the
float64 truth.
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
