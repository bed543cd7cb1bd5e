"""Sound files of every format, in the form in which they are damaged."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from tests.checkpoints.checkpoint_samples import (
    FakeStorage,
    FakeTensor,
    legacy_file,
    npy,
    pickled,
    tar_file,
    tar_members,
    zip_file,
)

__all__ = ["SEEDS", "Seed"]


@dataclass(frozen=True)
class Seed:
    """A sound file.

    Attributes:
        content: what is damaged: the whole file or its most telling part.
        file: makes the file of such content.
        name: of the file.
        beside: what lies beside it; the folder is what is read, if there is anything.
        needed: whether nothing can be read without it.
    """

    content: bytes
    file: Callable[[bytes], bytes] = bytes
    name: str = "f"
    beside: Mapping[str, bytes] = field(default_factory=dict)
    needed: bool = True

    def put_beside(self, folder: Path) -> Path:
        """Write what lies beside the file, and say what is to be read."""
        for name, content in self.beside.items():
            (folder / name).write_bytes(content)
        return folder if self.beside else folder / self.name


def state() -> OrderedDict:
    torch.manual_seed(0)
    base = torch.randn(2, 3)
    return OrderedDict(
        weight=base.t(),
        tied=base,
        half=torch.randn(3).bfloat16(),
        count=torch.tensor(7),
        small=torch.arange(3).to(torch.uint16),
        lazy=torch.randn(2, dtype=torch.complex64).conj(),
        empty=torch.zeros(0, 2),
        flag=torch.tensor([True, False]),
    )


def saved(value: object, **options) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def wrapped() -> dict:
    return {"epoch": 1, "best": np.float64(0.5), "model": {"module.w": torch.ones(2)}}


def plain_state() -> dict[str, torch.Tensor]:
    return {name: value.contiguous().resolve_conj() for name, value in state().items()}


def arrays() -> dict[str, object]:
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.ones((2, 2), ">i2")),
        "s": np.float64(3),
        "long": np.arange(300).astype(np.uint8),  # longer than a short opcode takes
    }


def npz(save: Callable = np.savez) -> bytes:
    out = io.BytesIO()
    save(out, w=np.arange(6.0).reshape(2, 3), v=np.ones(3, np.float16))
    return out.getvalue()


class Scale(torch.nn.Module):  # its source is saved in legacy files
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))


def model() -> torch.nn.Module:
    scale = Scale()
    scale.register_buffer("mean", torch.zeros(1))
    scale.register_buffer("fleeting", torch.zeros(1), persistent=False)
    return torch.nn.ModuleDict({"s": scale})


def part_of_storage() -> FakeStorage:
    """Elements 1 and 2 of four, as the oldest versions wrote what `storage[1:3]` was."""
    return FakeStorage(numbers=(4, ("1", 1, 2)))


def shard_index() -> Seed:
    first, second = {"a": torch.ones(2)}, {"b": torch.zeros(1), "c": torch.ones(1)}
    files = {"one.safetensors": first, "two.safetensors": second}
    places = {name: file for file, tensors in files.items() for name in tensors}
    index = {"metadata": {"total_size": 16}, "weight_map": places}
    beside = {file: safetensors.torch.save(tensors) for file, tensors in files.items()}
    name = "model.safetensors.index.json"
    return Seed(json.dumps(index).encode(), name=name, beside=beside)


def settings() -> Seed:
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"mean": [0.5]}}
    beside = {"model.safetensors": safetensors.torch.save({"w": torch.ones(2)})}
    return Seed(json.dumps(config).encode(), name="config.json", beside=beside, needed=False)


# What is damaged, and how a file is made of it.


def split_safetensors(content: bytes) -> Seed:
    """The header, and what puts a damaged header back with its right length."""
    end = 8 + int.from_bytes(content[:8], "little")
    return Seed(content[8:end], lambda text: len(text).to_bytes(8, "little") + text + content[end:])


def split_zip(content: bytes) -> Seed:
    """The pickle, and what puts a damaged pickle back into a sound archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        data = name.removesuffix(".pkl") + "/"
        storages = {
            name.removeprefix(data): archive.read(name)
            for name in archive.namelist()
            if name.startswith(data)
        }
        return Seed(archive.read(name), lambda program: zip_file(program, storages))


def split_tar(content: bytes) -> Seed:
    """Names, sizes and kinds of the members, and what puts damaged ones back among the padding."""
    blocks = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    places = [
        at + within
        for at in blocks
        for within in (*range(10), *range(124, 136), 156)
        if content[at + within]
    ]

    def put_back(text: bytes) -> bytes:
        changed = bytearray(content)
        for at, value in zip(places, text.ljust(len(places), b"\0"), strict=False):
            changed[at] = value
        return bytes(changed)

    return Seed(bytes(content[at] for at in places), put_back)


SEEDS: dict[str, Callable[[], Seed]] = {
    "zip": lambda: Seed(saved(wrapped())),
    "zip, big-endian": lambda: Seed(
        zip_file(pickled({"w": FakeTensor()}), records={"byteorder": b"big"})
    ),
    "zip's pickle": lambda: split_zip(saved(state())),
    "zip's pickle, protocol 4": lambda: split_zip(saved(wrapped(), pickle_protocol=4)),
    "legacy": lambda: Seed(saved(state(), _use_new_zipfile_serialization=False)),
    "legacy, wrapped": lambda: Seed(saved(wrapped(), _use_new_zipfile_serialization=False)),
    "safetensors": lambda: Seed(safetensors.torch.save(plain_state())),
    "safetensors' header": lambda: split_safetensors(safetensors.torch.save(plain_state())),
    "arrays, protocol 2": lambda: Seed(pickle.dumps(arrays(), 2)),
    "arrays, protocol 4": lambda: Seed(pickle.dumps(arrays(), 4)),
    "arrays, protocol 5": lambda: Seed(pickle.dumps({"model": arrays(), "author": "x"}, 5)),
    "arrays in a zip": lambda: split_zip(saved({"w": np.ones(3), "v": torch.ones(1)})),
    "a whole model": lambda: split_zip(saved(model())),
    "a whole legacy model": lambda: Seed(saved(Scale(), _use_new_zipfile_serialization=False)),
    "npz": lambda: Seed(npz()),
    "npz's header": lambda: Seed(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }",
        lambda header: npy(header.decode("latin1")),
    ),
    "compressed npz": lambda: Seed(npz(np.savez_compressed)),
    "deflated zip": lambda: Seed(
        zip_file(pickled({"w": FakeTensor()}), compression=zipfile.ZIP_DEFLATED)
    ),
    "tar's headers": lambda: split_tar(tar_file()),
    "tar's members": lambda: Seed(tar_members(), tar_file),
    "an index of shards": shard_index,
    "a hub folder's settings": settings,
    "legacy, a part of a storage": lambda: Seed(
        legacy_file(pickled({"w": FakeTensor(size=(2,), storage=part_of_storage())}))
    ),
}
