"""The exception of the checkpoint reader and writer, and the quoting that its messages need.

The readers of the formats raise it with a sentence that lacks its subject ("is an empty file");
`contents_of` and `write_checkpoint` put the path in front.
"""

__all__ = ["CheckpointError", "quoted"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written: one sentence naming the file and the reason."""


def quoted(text: object, longest: int = 120) -> str:
    """Text taken from a file, safe to print: escaped, shortened and in quotes.

    Args:
        text: a `str` or `bytes`; for anything else only the type's name is shown, because the
            `repr` of a hostile object can be exponentially long.
        longest: number of characters to keep.

    Returns: ASCII without control characters.
    """
    if not isinstance(text, str | bytes):
        return type(text).__name__
    shown = ascii(text[:longest])
    return shown + "..." if len(text) > longest else shown
