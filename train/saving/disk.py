"""What cannot be written, in one sentence that names the place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["first_line", "writing"]


@contextmanager
def writing(place: Path, failures: type[Exception] = OSError, comfort: str = "") -> Iterator[None]:
    """Raise what the block raises as one OSError.

    Args:
        place: the folder or file that the block writes.
        failures: what the block raises where nothing can be written.
        comfort: added to the sentence.
    """
    try:
        yield
    except failures as error:
        if isinstance(error, OSError) and error.strerror is None:  # it is a sentence already
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        named = getattr(error, "filename", None) or place
        raise OSError(f"{named} cannot be written: {reason}{comfort}") from error


def first_line(error: BaseException) -> str:
    """Of what an error says, at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
