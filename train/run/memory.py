"""A device that runs out of memory, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

__all__ = ["enough_memory"]


@contextmanager
def enough_memory(batch_size: int, advice: str) -> Iterator[None]:
    """Raise MemoryError, with the advice, where XLA finds that the block does not fit."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"--batch-size {batch_size} does not fit; {advice}") from error
