"""A one-sentence error, with the path, for files that cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["first_line", "writing"]


@contextmanager
def writing(place: Path, failures: type[Exception] = OSError, comfort: str = "") -> Iterator[None]:
    """Turn errors of the block into one OSError.

    Args:
        place: the folder or file that the block writes.
        failures: type of the errors that the block raises when it cannot write.
        comfort: text added to the end of the message.
    """
    try:
        yield
    except failures as error:
        if isinstance(error, OSError) and error.strerror is None:  # already a sentence
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        named = getattr(error, "filename", None) or place
        raise OSError(f"{named} cannot be written: {reason}{comfort}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
