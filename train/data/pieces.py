"""The images that a process reads, in pieces that make up its share of each batch."""

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
    """The rows of each batch that this process reads: part `process` of `processes` equal parts."""

    process: int = 0
    processes: int = 1


WHOLE = Share()


class Pieces(grain.MapDataset):
    """A process's share of some batches, as a sequence of equal pieces: lists of rows.

    Each thread reads one piece, so that all threads work on the same batch. Pieces of a large batch
    have many rows, because Grain's overhead per element equals the time to read a small image.

    Attributes:
        per_batch: pieces per batch: the number of threads, or the next number that divides the
            rows.
    """

    def __init__(
        self, rows: grain.MapDataset, numbers: range, batch_size: int, share: Share, threads: int
    ):
        """Take the rows of all batches, the numbers of the batches to read, the rows per batch,
        this process's share, and the number of reading threads.
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
        """Called by Grain in a worker process: each of n workers reads every nth batch entirely."""
        self.numbers = self.numbers[batches]


def stacked(pieces: Sequence[Sequence[Row]]) -> dict[str, np.ndarray]:
    """Stack the pieces of a batch into one array per name."""
    rows = list(chain(*pieces))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
