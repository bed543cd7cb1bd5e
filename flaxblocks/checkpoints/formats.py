"""The checkpoint formats, one row each.

The format of a file is determined from its first bytes, that of a folder from the files in it. The
suffix matters for writing, and for finding the weights in a folder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxblocks.checkpoints.npz_file import read_npz, write_npz
from flaxblocks.checkpoints.opened import Opened, Saved
from flaxblocks.checkpoints.orbax_folder import is_orbax, orbax_saved, write_orbax
from flaxblocks.checkpoints.safetensors_file import read_safetensors, write_safetensors
from flaxblocks.checkpoints.shards import is_index
from flaxblocks.checkpoints.torch_dtypes import DtypeRow
from flaxblocks.checkpoints.torch_folder import is_torch_folder, read_torch_folder
from flaxblocks.checkpoints.torch_legacy import read_legacy
from flaxblocks.checkpoints.torch_save import write_torch
from flaxblocks.checkpoints.torch_tar import read_tar
from flaxblocks.checkpoints.zip_file import read_zip

__all__ = ["FORMATS", "Format"]

ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: its name for readers.
        suffixes: its usual suffixes.
        is_file: whether a file is in this format; None if the format is a folder.
        is_folder: whether a folder is in this format; None if the format is a file.
        read: reads an `Opened` file or the `Path` of a folder; None for an index of other files.
        write: writes arrays to an open file, or to a folder at a path; None if the format is only
            read.
        holds: whether the format can hold arrays of a dtype.
    """

    name: str
    suffixes: tuple[str, ...]
    is_file: Callable[[Opened], bool] | None = None
    is_folder: Callable[[Path], bool] | None = None
    read: Callable[[Any], Saved] | None = None
    write: Callable[[Mapping[str, np.ndarray], Any], None] | None = None
    holds: Callable[[DtypeRow], bool] = lambda _: True


def _is_safetensors(opened: Opened) -> bool:
    # The length of the header may begin with another format's signature. It is below 2**32.
    return opened.data[4:9] == b"\0\0\0\0{"


def _is_npz(opened: Opened) -> bool:
    length = int.from_bytes(opened.data[26:28], "little")
    name = opened.data[30 : 30 + min(length, 1000)]
    return opened.data[:4] == ZIP and name.endswith(b".npy")


FORMATS = (
    Format(
        "safetensors",
        (".safetensors",),
        is_file=_is_safetensors,
        read=lambda opened: Saved(*read_safetensors(opened.path, opened.data)),
        write=write_safetensors,
        holds=lambda row: row.safetensors is not None,
    ),
    Format(
        "NumPy's .npz",
        (".npz",),
        is_file=_is_npz,
        read=read_npz,
        write=write_npz,
        holds=lambda row: not row.is_of_ml_dtypes,
    ),
    Format(
        "PyTorch",
        (".pth", ".pt"),
        is_file=lambda opened: opened.data[:4] == ZIP,
        read=read_zip,
        write=write_torch,
    ),
    Format(
        "a pickle, as PyTorch saved before 1.6",
        (".ckpt", ".bin", ".pkl", ".pickle", ".pyth"),
        is_file=lambda opened: opened.data[:1] == b"\x80",
        read=lambda opened: Saved(*read_legacy(opened.data)),
    ),
    Format(
        "a tar archive, as PyTorch saved before 0.1.10",
        (".tar",),
        is_file=lambda opened: opened.data[257:262] == b"ustar",
        read=lambda opened: Saved(*read_tar(opened.data)),
    ),
    Format("an index of shards", (".index.json",), is_file=is_index),
    Format("Orbax", (".orbax",), is_folder=is_orbax, read=orbax_saved, write=write_orbax),
    Format("an unpacked .pth", (), is_folder=is_torch_folder, read=read_torch_folder),
)
