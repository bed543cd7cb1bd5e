"""The choice of held-out images for data without a validation part."""

from collections.abc import Sequence

import numpy as np

__all__ = ["held_out_rows"]


def held_out_rows(labels: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Choose the rows to hold out at random, the fraction `share` of each class.

    The choice in one class does not depend on the other classes.

    Args:
        labels: labels of all rows, from 0 up.
        share: fraction of each class; below 1, a class of two or more has rows on both sides, and a
            single row is not held out.
        seed: seed of the choice.

    Returns: `(N,)`, bool: whether each row is held out.
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
