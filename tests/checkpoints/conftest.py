"""The small model and its state dict, as the converter's tests use them."""

from tests.convert.conftest import model, state

__all__ = ["model", "state"]
