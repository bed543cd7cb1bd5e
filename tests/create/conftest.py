"""The small model and its state dict, as the converter's tests use them."""

from typing import Any

from tests.convert.conftest import model, state

__all__ = ["SMALL", "model", "state"]

SMALL: dict[str, Any] = {  # four blocks for seventeen
    "width_mult": 0.25,
    "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 1, 2], [6, 32, 2, 2], [6, 64, 1, 2]],
}
