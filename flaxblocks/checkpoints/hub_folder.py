"""Folders from a model hub: a file of weights and a `config.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxblocks.checkpoints.error import CheckpointError, quoted

__all__ = ["settings_beside", "weights_in"]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
LARGEST_SETTINGS = 16 * 2**20


def weights_in(folder: Path, suffixes: Sequence[str]) -> Path | None:
    """The weights file in a folder: the first of `WEIGHTS`, else the only one with a known suffix.

    Raises: CheckpointError naming them, if there are several and none is in `WEIGHTS`.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = sorted(
        entry
        for entry in folder.iterdir()
        if entry.name.lower().endswith(tuple(suffixes)) and entry.is_file()
    )
    if len(files) > 1:
        shown = ", ".join(quoted(file.name, 60) for file in files[:8])
        more = f" and {len(files) - 8} more" if len(files) > 8 else ""
        raise CheckpointError(
            f"is a folder of several checkpoints, {shown}{more}: name one of them"
        )
    return files[0] if files else None


def settings_beside(weights: Path) -> dict[str, Any] | None:
    """The content of the `config.json` in the folder of a file that has one of the `WEIGHTS` names.

    None if there is none, or none that can be read.
    """
    path = weights.parent / "config.json"
    if weights.name not in WEIGHTS or not path.is_file() or path.stat().st_size > LARGEST_SETTINGS:
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        return None
    return settings if isinstance(settings, dict) else None
