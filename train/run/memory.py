"""A one-sentence error for a device that runs out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

__all__ = ["enough_memory"]


@contextmanager
def enough_memory(batch_size: int, advice: str) -> Iterator[None]:
    """Raise MemoryError with `advice` if XLA runs out of memory in the block."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"--batch-size {batch_size} does not fit; {advice}") from error
