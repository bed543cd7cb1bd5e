"""The records of a run: `metrics.jsonl`, TensorBoard event files and `curves.png`."""

import json
import math
from collections.abc import Callable
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
    """One line of metrics per epoch, in three forms."""

    def __init__(self, folder: Path, step: int, warn: Callable[[str], None]):
        """Continue after `step`; lines of later steps are dropped, since these steps are repeated.

        Args:
            folder: the folder of the run.
            step: the last finished step.
            warn: called with a message about each damaged line, which is ignored.
        """
        self.folder = folder
        self.path = folder / METRICS
        self.rows = [row for row in _read_rows(self.path, warn) if row["step"] <= step]
        self._rewrite()
        from tensorboardX import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Write the metrics of an epoch."""
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
        """Close the event file, ignoring errors of the disk."""
        with suppress(OSError):
            self.board.close()

    def _rewrite(self) -> None:
        with replacing(self.path) as file:
            for row in self.rows:
                file.write((json.dumps(row) + "\n").encode())


def _read_rows(path: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """The intact lines; a last line that was cut off when its process died is ignored silently."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:  # any other error may hide lines, and is raised
        return []
    rows = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            warn(f"{path}, line {number} is damaged and ignored: {line[:60]!r}")
    return rows


def _row(line: str) -> dict[str, Any] | None:
    """A line as numbers by name, which must include `step` and `epoch`; None for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and {"step", "epoch"} <= row.keys()
    return row if is_row and all(type(value) in (int, float) for value in row.values()) else None
