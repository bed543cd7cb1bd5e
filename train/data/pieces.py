"""Which images a process reads, and in which pieces, so that its batches are its share of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import grain
import numpy as np

__all__ = ["WHOLE", "Pieces", "Share", "stacked"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """Which rows of each batch this process reads: all of `process` in `processes` equal parts."""

    process: int = 0
    processes: int = 1


WHOLE = Share()


class Pieces(grain.MapDataset):
    """A share of some batches in equal pieces, one after the other: lists of rows.

    Each thread reads a piece, so that all of them work on one batch. A piece has many rows where a
    batch has: what Grain does for each element takes as long as reading a small image.

    Attributes:
        per_batch: as many as there are threads, or a few more to divide the rows.
    """

    def __init__(
        self, rows: grain.MapDataset, numbers: range, batch_size: int, share: Share, threads: int
    ):
        """Take the rows of all batches, the numbers of those wanted, the rows of a batch, this
        process's share of it, and how many threads read.
        """
        super().__init__(rows)
        self.rows = rows
        self.numbers = numbers
        self.batch_size = batch_size
        mine = batch_size // share.processes
        self.first = share.process * mine
        self.per_batch = next(n for n in range(min(threads, mine), mine + 1) if mine % n == 0)
        self.size = mine // self.per_batch

    def __len__(self) -> int:
        return len(self.numbers) * self.per_batch

    def __getitem__(self, index: Any) -> Any:
        place, piece = divmod(index, self.per_batch)
        first = self.numbers[place] * self.batch_size + self.first + piece * self.size
        return [self.rows[i] for i in range(first, first + self.size)]

    def set_slice(self, batches: slice, sequential_slice: bool = False) -> None:
        """Called by Grain in a worker process: of n workers, each reads every nth batch, whole."""
        self.numbers = self.numbers[batches]


def stacked(pieces: Sequence[Sequence[Row]]) -> dict[str, np.ndarray]:
    """The pieces of a batch as one array for each name."""
    rows = list(chain(*pieces))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
