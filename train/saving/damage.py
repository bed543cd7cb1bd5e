"""What is known to be damage of a checkpoint: a digest that does not fit, or a file that is missing
or cannot be parsed, while the disk answers. All else is none.

A disk that fails, too little memory and a program of another version say nothing of what was saved.
Orbax and TensorStore raise them, and damage too, in many forms that no text tells apart. So it is
decided by looking: each checkpoint has a list of its files, with a digest of each.
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
    """A checkpoint that cannot be restored and is not known to be damaged: it was left as it is."""


class ListedArrays(ocp.PyTreeCheckpointHandler):
    """Orbax's arrays, whose files are listed before the checkpoint counts as written."""

    def finalize(self, directory: Any) -> None:
        """Called in one process, when all have written."""
        super().finalize(directory)
        folder = Path(directory)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digests = {path.relative_to(folder).as_posix(): _digest_of(path) for path in files}
        (folder / LISTING).write_text(json.dumps(sealed(digests)))

    @classmethod
    def typestr(cls) -> str:
        """What the checkpoint says that it was written by: any program with Orbax can read it."""
        return ocp.PyTreeCheckpointHandler.typestr()


def check_files(checkpoint: Path) -> None:
    """Raise Damaged if the files of the arrays are not those that were written.

    Raises: OSError if the disk does not answer.
    """
    state = checkpoint / STATE
    for name, digest in unsealed(checkpoint, state / LISTING).items():
        with _missing_is_damage(checkpoint):
            found = _digest_of(state / name)
        if found != digest:
            raise Damaged(f"{STATE}/{name} is not what was saved")


def sealed(value: Any) -> dict[str, Any]:
    """JSON, and the digest that tells whether it is still that."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return {"notes": value, "sha256": digest}


def unsealed(checkpoint: Path, file: Path) -> Any:
    """What `sealed` was given, from a file of a checkpoint.

    Raises:
        Damaged: it is not what was saved, or the file is missing.
        OSError: the disk does not answer.
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
    """Raise in every process what the block raises in one, which none may leave out.

    Args:
        before: the beginning of the sentence about an error that is neither of the two below.
        after: its end.

    Raises:
        NotRestored: the block raised it, or anything else that is not known to be damage.
        Damaged: it raised no other than that.
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
    """Raise Damaged for a file that is missing, if the disk still shows the checkpoint itself."""
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
    """What lies at the bottom of an error, in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {first_line(error)}"
