"""The folder of an unpacked `.pth`: data.pkl, and data/ with one file per storage."""

from functools import partial
from pathlib import Path

from flaxblocks.checkpoints.opened import Saved, mapped
from flaxblocks.checkpoints.torch_zip import PICKLE, read_records
from flaxblocks.checkpoints.window import OfFile, Place

__all__ = ["is_torch_folder", "read_torch_folder"]


def is_torch_folder(path: Path) -> bool:
    """Whether a folder is an unpacked `.pth`, or contains just one."""
    return _root(path) is not None


def read_torch_folder(path: Path) -> Saved:
    """Read the pickle; the storages are memory-mapped when a tensor views them.

    Only files in the folder are read, whatever keys the pickle refers to.
    """
    root = _root(path)
    assert root is not None, "the caller has checked"
    files = [
        file for folder in (root, root / "data") if folder.is_dir() for file in folder.iterdir()
    ]
    records: dict[str, Place] = {
        file.relative_to(root).as_posix(): OfFile(file.stat().st_size, partial(mapped, file))
        for file in files
        if file.is_file()
    }
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Saved(*read_records(records, "", size))


def _root(path: Path) -> Path | None:
    """The folder with the pickle: `path` itself, or the only such folder in it; else None."""
    if (path / PICKLE).is_file():
        return path
    inner = [entry for entry in path.iterdir() if (entry / PICKLE).is_file()]
    return inner[0] if len(inner) == 1 else None
