"""Which images a process reads, one after the other, so that its batches are its share of each."""

from dataclasses import dataclass
from typing import Any

import grain

__all__ = ["WHOLE", "Rows", "Share"]


@dataclass(frozen=True)
class Share:
    """Which rows of each batch this process reads: all of `process` in `processes` equal parts."""

    process: int = 0
    processes: int = 1


WHOLE = Share()


class Rows(grain.MapDataset):
    """A share of some batches, row by row: all threads of a reader work on one batch."""

    def __init__(self, images: grain.MapDataset, numbers: range, batch_size: int, share: Share):
        """Take images in order, the numbers of the batches of them that are wanted, the images of
        a batch, and this process's share of it.
        """
        super().__init__(images)
        self.images = images
        self.numbers = numbers
        self.batch_size = batch_size
        self.rows = batch_size // share.processes  # of a batch
        self.first = share.process * self.rows  # of them

    def __len__(self) -> int:
        return len(self.numbers) * self.rows

    def __getitem__(self, index: Any) -> Any:
        place, row = divmod(index, self.rows)
        return self.images[self.numbers[place] * self.batch_size + self.first + row]

    def set_slice(self, batches: slice, sequential_slice: bool = False) -> None:
        """Called by Grain in a worker process: of n workers, each reads every nth batch, whole."""
        self.numbers = self.numbers[batches]
