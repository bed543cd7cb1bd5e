"""Detection of damaged checkpoints.

A checkpoint is damaged if, while the disk works, a digest does not match or a file is missing or
cannot be parsed. A failing disk, too little memory or another version of a program do not mean that
it is damaged. Orbax and TensorStore raise errors for all of these in many forms that their texts do
not distinguish, so damage is determined by checking: each checkpoint has a list of its files with
their digests.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from train.run.mesh import united
from train.saving.disk import first_line

__all__ = ["Damaged", "ListedArrays", "NotRestored", "alike", "check_files", "sealed", "unsealed"]

STATE, LISTING = "state", "files.json"


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


class NotRestored(ValueError):
    """A checkpoint cannot be restored although no damage was found; it was not modified."""


class ListedArrays(ocp.PyTreeCheckpointHandler):
    """Orbax's handler for arrays, which also lists their files before the checkpoint is final."""

    def finalize(self, directory: Any) -> None:
        """Called in one process after all processes have written."""
        super().finalize(directory)
        folder = Path(directory)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digests = {path.relative_to(folder).as_posix(): _digest_of(path) for path in files}
        (folder / LISTING).write_text(json.dumps(sealed(digests)))

    @classmethod
    def typestr(cls) -> str:
        """The handler named in the checkpoint: Orbax's own, so that any program can read it."""
        return ocp.PyTreeCheckpointHandler.typestr()


def check_files(checkpoint: Path) -> None:
    """Check that the files of the arrays are those that were written.

    Raises:
        Damaged: a file is missing or differs.
        OSError: the disk fails.
    """
    state = checkpoint / STATE
    for name, digest in unsealed(checkpoint, state / LISTING).items():
        with _missing_is_damage(checkpoint):
            found = _digest_of(state / name)
        if found != digest:
            raise Damaged(f"{STATE}/{name} is not what was saved")


def sealed(value: Any) -> dict[str, Any]:
    """JSON data together with its digest, which `unsealed` checks."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return {"notes": value, "sha256": digest}


def unsealed(checkpoint: Path, file: Path) -> Any:
    """The value given to `sealed`, read from a file of a checkpoint.

    Raises:
        Damaged: the file is missing or not what was saved.
        OSError: the disk fails.
    """
    with _missing_is_damage(checkpoint):
        data = file.read_bytes()
    try:
        found = json.loads(data)
        whole = found == sealed(found["notes"])
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise Damaged(f"{file.relative_to(checkpoint)} is not what was saved")
    return found["notes"]


@contextmanager
def alike(before: str, after: str = "") -> Iterator[None]:
    """Raise an error of the block in every process, even if only one process meets it. Every
    process must enter the block.

    Args:
        before: start of the sentence about an error other than the two below.
        after: its end.

    Raises:
        NotRestored: the block raised `NotRestored`, or any error other than `Damaged`.
        Damaged: the block raised `Damaged` in some process, and no other error in any.
    """
    told: dict[str, str] = {}
    cause: Exception | None = None
    try:
        yield
    except Damaged as error:
        cause, told = error, {"damage": str(error)}
    except NotRestored as error:
        cause, told = error, {"unknown": str(error)}
    except Exception as error:  # Orbax raises many kinds
        cause, told = error, {"unknown": f"{before}: {_reason(error)}{after}"}
    told = united(told)
    if "unknown" in told:
        raise NotRestored(told["unknown"]) from cause
    if "damage" in told:
        raise Damaged(told["damage"]) from cause


@contextmanager
def _missing_is_damage(checkpoint: Path) -> Iterator[None]:
    """Raise Damaged for a missing file, if the checkpoint's folder itself can still be listed."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if checkpoint.name not in os.listdir(checkpoint.parent):
            raise
        raise Damaged(f"{Path(error.filename).relative_to(checkpoint)} is missing") from error


def _digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    """The root cause of an error, in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {first_line(error)}"
