"""The warning for a checkpoint with several networks of which the caller has not selected one."""

import warnings
from collections.abc import Sequence

from flaxblocks.create.places import Choice

__all__ = ["warn_of_several"]


def warn_of_several(
    name: str, taken: str, others: Sequence[str], choice: Choice, depth: int = 3
) -> None:
    """Warn that a checkpoint holds other networks than the one `taken`.

    Args:
        name: name of the checkpoint in the message.
        taken: where the network was found.
        others: where other networks were found.
        choice: the caller's choice; there is no warning if it selects a network.
        depth: `stacklevel` of the warning.
    """
    if others and not choice.is_made:
        warnings.warn(
            f"{name} holds several networks: {taken} was taken, not {', '.join(others)}; "
            "select one with `ema`, `key` or `prefix`",
            stacklevel=depth,
        )
