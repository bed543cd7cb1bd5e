"""A short run of the tiny network: its settings, what it left, and a signal in its middle."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train.run import loop
from train.settings.config import Config

__all__ = [
    "CONFIG",
    "STEPS",
    "contents",
    "copy_of",
    "in_",
    "interrupted_after",
    "rows_of",
    "same_end",
    "steps_of",
]

CONFIG = Config(
    image_size=32, epochs=3, batch_size=256, lr=0.01, warmup_epochs=0.5, ema=0.5, mixup=0.2
)
STEPS = 5  # of an epoch: 1,437 digits
TIMES = ("seconds", "images_per_second")


def in_(out: Path, **settings: Any) -> Config:
    """The run in that folder, some of its settings changed."""
    return replace(CONFIG, out=str(out), **settings)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The metrics, but for what a clock measured."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same_end(out: Path, other: Path) -> bool:
    """Both ended with the same metrics and the same files, to the byte."""
    files = ("final.safetensors", "best.safetensors")
    return rows_of(out) == rows_of(other) and all(
        (out / name).read_bytes() == (other / name).read_bytes() for name in files
    )


def steps_of(out: Path) -> list[int]:
    """Of the checkpoints that are there."""
    return sorted(int(path.name) for path in (out / "checkpoints").iterdir())


def copy_of(alone: Path, tmp_path: Path) -> Path:
    """As if the run had died before its end."""
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "final.safetensors").unlink()
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for the lock, to the byte."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def interrupted_after(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send this process a signal while it prepares the batch after `step`."""
    original, count = loop.put_batch, 0

    def put(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == step + 1:
            os.kill(os.getpid(), number)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", put)
        yield
