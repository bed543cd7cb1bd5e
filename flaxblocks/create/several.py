"""A warning where a checkpoint holds several networks and nobody has said which is meant."""

import warnings
from collections.abc import Sequence

from flaxblocks.create.places import Choice

__all__ = ["warn_of_several"]


def warn_of_several(
    name: str, taken: str, others: Sequence[str], choice: Choice, depth: int = 3
) -> None:
    """Warn of other networks in the checkpoint `name` than the one `taken`.

    Args:
        name: of the checkpoint, for people.
        taken: where the network lay.
        others: where others lie.
        choice: what the caller said of it.
        depth: of calls up to the line that the warning is for.
    """
    if others and not choice.is_made:
        warnings.warn(
            f"{name} holds several networks: {taken} was taken, not {', '.join(others)}; "
            "`ema`, `key` or `prefix` chooses",
            stacklevel=depth,
        )
