"""Checkpoint files made by hand, so that a test can put anything into them."""

import io
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._utils

from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from flaxblocks.checkpoints.torch_dtypes import DTYPES

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
DTYPES_OF_TORCH = [row for row in DTYPES if hasattr(torch, row.torch)]  # of the installed one


@dataclass
class FakeStorage:
    """Pickled as a persistent id; `numbers` are what follows the location."""

    key: Any = "0"
    numbers: tuple = (4,)
    kind: Any = torch.FloatStorage


@dataclass
class FakeTensor:
    """Pickled as a call of `_rebuild_tensor_v2` or another of torch's functions."""

    offset: Any = 0
    size: Any = (4,)
    stride: Any = (1,)
    storage: Any = field(default_factory=FakeStorage)
    tail: tuple = (False, OrderedDict())
    function: Callable = torch._utils._rebuild_tensor_v2

    def __reduce__(self) -> tuple:
        return self.function, (self.storage, self.offset, self.size, self.stride, *self.tail)


@dataclass
class Call:
    """Pickled as a call of any function."""

    function: Callable
    arguments: tuple = ()

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


@dataclass
class TarTensor:
    """Pickled as a persistent id, the tensor's key."""

    key: str


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, FakeStorage):
            return ("storage", obj.kind, obj.key, "cpu", *obj.numbers)
        if isinstance(obj, TarTensor):
            return obj.key
        return None


def pickled(value: Any, protocol: int = 2) -> bytes:
    """The pickle of a value that may hold the classes above."""
    out = io.BytesIO()
    _Pickler(out, protocol=protocol).dump(value)
    return out.getvalue()


def zip_file(
    program: bytes,
    storages: Mapping[str, bytes] | None = None,
    records: Mapping[str, bytes] | None = None,
    root: str = "archive",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A zip archive around a pickle; `records` are further records below the root."""
    out = io.BytesIO()
    storages = {"0": struct.pack("<4f", 1, 2, 3, 4)} if storages is None else storages
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", program)
        for key, content in storages.items():
            archive.writestr(f"{root}/data/{key}", content)
        for name, content in (records or {}).items():
            archive.writestr(f"{root}/{name}", content)
    return out.getvalue()


def legacy_file(program: bytes, keys: Any = ("0",), tail: bytes | None = None) -> bytes:
    """A legacy stream around a pickle; `tail` is everything after the list of keys."""
    head = [pickled(value) for value in (MAGIC_NUMBER, 1001, {"little_endian": True})]
    tail = struct.pack("<q4f", 4, 1, 2, 3, 4) if tail is None else tail
    return b"".join([*head, program, pickled(list(keys)), tail])


def tar_members() -> bytes:
    """A member's name before each of four contents, as PyTorch 0.1 wrote them; see `tar_file`."""
    members = {
        "sys_info": pickled({"protocol_version": 1000}),
        "storages": b"".join(
            [
                pickled(2),
                *(pickled((7, "cpu", torch.FloatStorage)), struct.pack("<q4f", 4, 1, 2, 3, 4)),
                *(pickled((8, "cpu", torch.LongStorage)), struct.pack("<q2q", 2, 5, 6)),
                pickled([(9, 7, 1, 2)]),
            ]
        ),
        "tensors": b"".join(
            [
                pickled(3),
                pickled((70, 7, torch.FloatTensor)) + struct.pack("<iiqqqqq", 2, 0, 2, 2, 1, 2, 0),
                pickled((80, 8, torch.LongTensor)) + struct.pack("<iiqqq", 1, 0, 1, 1, 1),
                pickled((90, 9, torch.FloatTensor)) + struct.pack("<iiqqq", 1, 0, 2, 1, 0),
            ]
        ),
        "pickle": pickled({"w": TarTensor("70"), "n": TarTensor("80"), "part": TarTensor("90")}),
    }
    return b"\0MEMBER\0".join(
        part for name, content in members.items() for part in (name.encode(), content)
    )


def tar_file(members: bytes | None = None) -> bytes:
    """The tar archive of such members."""
    parts = (tar_members() if members is None else members).split(b"\0MEMBER\0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in zip(parts[::2], parts[1::2], strict=False):
            info = tarfile.TarInfo(name.decode("latin1")[:90].replace("\0", "_"))
            info.size, info.mtime = len(content), 1.5  # which takes a header of its own
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def npy(header: str, content: bytes = bytes(16)) -> bytes:
    """A .npz archive of one array, `w`, with any header."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        head = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode("latin1")
        archive.writestr("w.npy", head + content)
    return out.getvalue()


def cheap_refusal(content: bytes, path: Path, seconds: float = 5.0, megabytes: float = 4.0) -> str:
    """The message for a file, after seeing that refusing it took little memory and time.

    The bounds are many times what an honest reader takes and a small part of what the files claim.
    """
    (path / "f").write_bytes(content)
    begin = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as raised:
            read_checkpoint(path / "f")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < seconds
    assert peak < megabytes * 2**20
    return str(raised.value)
