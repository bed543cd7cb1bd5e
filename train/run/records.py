"""What a run writes for people: `metrics.jsonl`, TensorBoard's event files, `curves.png`."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from flaxblocks.checkpoints.atomic_file import replacing

__all__ = ["METRICS", "Records"]

METRICS = "metrics.jsonl"
PANELS = {
    "loss": ("train_loss", "held_out_loss"),
    "top-1, %": ("train_top1", "held_out_top1"),
    "learning rate": ("learning_rate",),
}


class Records:
    """One line an epoch, in three forms."""

    def __init__(self, folder: Path, step: int):
        """Go on after `step`: what an earlier process wrote beyond it is forgotten, since it comes
        again.
        """
        self.folder = folder
        self.path = folder / METRICS
        self.rows = [row for row in _read_rows(self.path) if row["step"] <= step]
        self._rewrite()
        from tensorboardX import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Write what an epoch gave, under its `step`."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self.board.add_scalar(name, value, row["step"])
        self.board.flush()

    def draw(self) -> None:
        """Write `curves.png`, if there is anything to draw."""
        if not self.rows:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.5), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        for axis, (title, names) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
            for name in names:
                values = [row.get(name, math.nan) for row in self.rows]
                axis.plot(epochs, values, marker=".", label=name.replace("_", " "))
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
        with replacing(self.folder / "curves.png") as file:
            figure.savefig(file, format="png", dpi=120)

    def close(self) -> None:
        """Finish the event file, as far as the disk takes it."""
        with suppress(OSError):
            self.board.close()

    def _rewrite(self) -> None:
        with replacing(self.path) as file:
            for row in self.rows:
                file.write((json.dumps(row) + "\n").encode())


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that was cut off when its process died is none."""
    rows = []
    try:
        text = path.read_text()
    except FileNotFoundError:  # of no other error is it known that there are no lines
        return rows
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
