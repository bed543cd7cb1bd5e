"""Which images to hold out where the data does not say."""

from collections.abc import Sequence

import numpy as np

__all__ = ["held_out_rows"]


def held_out_rows(labels: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Whether each row is held out: `share` of each class, drawn anew for each so that one more
    class moves no other.

    Args:
        labels: from 0 on, of all rows.
        share: of a class; below 1, a class of two or more has rows on both sides, and one that is
            alone is not held out.
        seed: of the choice.

    Returns: `(N,)`, bool.
    """
    of_row = np.asarray(labels, np.int64)
    held = np.zeros(len(of_row), bool)
    by_label = np.argsort(of_row, kind="stable")
    present, starts = np.unique(of_row[by_label], return_index=True)
    for label, rows in zip(present, np.split(by_label, starts[1:]), strict=False):
        order = np.random.default_rng([seed, label]).permutation(len(rows))
        count = len(rows)
        if share < 1:
            count = min(max(1, round(share * count)), count - 1)
        held[rows[order[:count]]] = True
    return held
