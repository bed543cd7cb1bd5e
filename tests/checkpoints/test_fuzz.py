"""Whatever the bytes of a file, reading it gives arrays or a CheckpointError, and costs little.

Small files of every format are damaged in many thousand ways, always the same ones: the random
generators are seeded.
"""

import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from flaxblocks.checkpoints import torch_pickle
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from flaxblocks.checkpoints.torch_names import ADMITTED, Constructor
from tests.checkpoints.checkpoint_samples import (
    FakeStorage,
    FakeTensor,
    pickled,
    tar_file,
    tar_members,
    zip_file,
)

MOST_BYTES = 2 * 2**20  # of memory for any of these files; the largest has 3 KB
RANDOM_CASES = 200


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


def split_safetensors(content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The header, and what puts a damaged header back with its right length."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], lambda text: len(text).to_bytes(8, "little") + text + content[end:]


def split_zip(content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The pickle, and what puts a damaged pickle back into a sound archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        data = name.removesuffix(".pkl") + "/"
        storages = {
            name.removeprefix(data): archive.read(name)
            for name in archive.namelist()
            if name.startswith(data)
        }
        return archive.read(name), lambda program: zip_file(program, storages)


def split_tar(content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """Names, sizes and kinds of the members, and what puts damaged ones back among the padding."""
    blocks = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    places = [
        at + within
        for at in blocks
        for within in (*range(10), *range(124, 136), 156)
        if content[at + within]
    ]

    def put_back(text: bytes) -> bytes:
        return damaged(content, dict(zip(places, text.ljust(len(places), b"\0"), strict=False)))

    return bytes(content[at] for at in places), put_back


def whole(content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    return content, lambda damaged: damaged


def plain_state() -> dict[str, torch.Tensor]:
    return {name: value.contiguous().resolve_conj() for name, value in state().items()}


# What is damaged, and how a file is made of it.
SEEDS = {
    "zip": lambda: whole(saved(wrapped())),
    "zip, big-endian": lambda: whole(
        zip_file(pickled({"w": FakeTensor()}), records={"byteorder": b"big"})
    ),
    "zip's pickle": lambda: split_zip(saved(state())),
    "zip's pickle, protocol 4": lambda: split_zip(saved(wrapped(), pickle_protocol=4)),
    "legacy": lambda: whole(saved(state(), _use_new_zipfile_serialization=False)),
    "legacy, wrapped": lambda: whole(saved(wrapped(), _use_new_zipfile_serialization=False)),
    "safetensors": lambda: whole(safetensors.torch.save(plain_state())),
    "safetensors' header": lambda: split_safetensors(safetensors.torch.save(plain_state())),
}


def dumped(value: object) -> Callable[[int], tuple[bytes, Callable[[bytes], bytes]]]:
    return lambda protocol=4: whole(pickle.dumps(value, protocol))


def arrays() -> dict[str, object]:
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.ones((2, 2), ">i2")),
        "s": np.float64(3),
        "long": np.arange(300, dtype=np.float32),
    }


def npz(save: Callable = np.savez) -> bytes:
    out = io.BytesIO()
    save(out, w=np.arange(6.0).reshape(2, 3), v=np.ones(3, np.float16))
    return out.getvalue()


def model() -> torch.nn.Module:
    norm = torch.nn.BatchNorm1d(2)
    norm.register_buffer("fleeting", torch.zeros(1), persistent=False)
    return torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ModuleDict({"n": norm}))


SEEDS |= {
    "arrays, protocol 2": lambda: dumped(arrays())(2),
    "arrays, protocol 4": lambda: dumped(arrays())(4),
    "arrays, protocol 5": lambda: dumped({"model": arrays(), "author": "x"})(5),
    "arrays in a zip": lambda: split_zip(saved({"w": np.ones(3), "v": torch.ones(1)})),
    "a whole model": lambda: split_zip(saved(model())),
    "a whole legacy model": lambda: whole(
        saved(torch.nn.Linear(2, 1), _use_new_zipfile_serialization=False)
    ),
    "npz": lambda: whole(npz()),
    "compressed npz": lambda: whole(npz(np.savez_compressed)),
    "deflated zip": lambda: whole(
        zip_file(pickled({"w": FakeTensor()}), compression=zipfile.ZIP_DEFLATED)
    ),
    "tar's headers": lambda: split_tar(tar_file()),
    "tar's members": lambda: (tar_members(), lambda members: tar_file(members)),
}

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63, 2**64 - 1]


def flips(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """One bit of every byte in turn, and several bits anywhere."""
    for at in range(len(content)):
        yield damaged(content, {at: content[at] ^ (1 << int(random.integers(8)))})
    for _ in range(RANDOM_CASES):
        places = random.integers(len(content), size=random.integers(2, 9)).tolist()
        yield damaged(content, {at: content[at] ^ (1 << int(random.integers(8))) for at in places})


def damaged(content: bytes, changes: dict[int, int]) -> bytes:
    changed = bytearray(content)
    for at, value in changes.items():
        changed[at] = value
    return bytes(changed)


def truncations(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """Cut at every byte, from either end."""
    for at in range(len(content)):
        yield content[:at]
        if at % 4 == 0:
            yield content[at + 1 :]


def splices(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """A piece moved, repeated or left out."""
    for _ in range(RANDOM_CASES):
        a, b, c = (int(at) for at in random.integers(len(content), size=3))
        a, b = sorted((a, min(b, a + 64)))
        piece = content[a:b]
        yield content[:c] + piece + content[c:]
        yield content[:c] + piece + content[c + len(piece) :]
        yield content[:a] + content[b:]


def numbers(content: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """A number of some width overwritten by an extreme one."""
    for _ in range(RANDOM_CASES):
        at, width = int(random.integers(len(content))), int(random.choice([1, 2, 4, 8]))
        value = EXTREMES[int(random.integers(len(EXTREMES)))] % 2 ** (8 * width)
        yield content[:at] + value.to_bytes(width, "little") + content[at + width :]


# Pieces of programs: values, and the opcodes that do something with them.
NAMES = {f"c{module}\n{name}\n".encode(): found for (module, name), found in ADMITTED.items()}
CALLED = [name for name, found in NAMES.items() if isinstance(found, Constructor)]
REBUILDERS = [name for name in CALLED if b"_rebuild" in name]
VALUES = [
    *NAMES,
    *(pickle.LONG1 + b"\x09" + number.to_bytes(9, "little") for number in EXTREMES),
    *(pickle.BINUNICODE + struct.pack("<I", len(text)) + text for text in (b"storage", b"0", b"w")),
    *(pickled(value)[2:-1] for value in (None, True, 0.5, b"", (), [], {}, (1, 2), [["k", 1]])),
    *(pickled(value)[2:-1] for value in ({"conj": True}, {"neg": True}, FakeTensor())),
    *[pickled(FakeStorage())[2:-1]] * 9,
    *[b"K\0", b"K\1\x85", b"K\1K\1\x86"] * 9,  # an offset, and sizes
]
VALUES += [
    *(b"c" + name + b"\n" for name in (b"torch.nn\nModule", b"a.b\nC", b"numpy\nndarray")),
    *(pickled({"_parameters": {"w": FakeTensor()}, "_buffers": {}, "_modules": {}})[2:-1],) * 3,
    *(pickled(value)[2:-1] for value in (np.ones(2), np.dtype("f4"), (1, (2,), np.dtype("f4")))),
]
OPCODES = [bytes([opcode]) for opcode in torch_pickle.OPCODES]


def soups(random: np.random.Generator) -> Iterator[bytes]:
    """Values and opcodes in any order, below the key of a state dict."""
    for _ in range(5 * RANDOM_CASES):
        pieces = [choice(random, VALUES if random.random() < 0.6 else OPCODES) for _ in range(20)]
        yield b"}(X\1\0\0\0v" + b"".join(pieces) + b"u."


def calls(random: np.random.Generator) -> Iterator[bytes]:
    """Admitted names called with any values, other calls among them."""
    for _ in range(5 * RANDOM_CASES):
        yield b"}X\1\0\0\0v" + call(random, depth=2) + b"s."


def call(random: np.random.Generator, depth: int) -> bytes:
    arguments = [
        call(random, depth - 1) if depth and random.random() < 0.1 else choice(random, VALUES)
        for _ in range(int(random.integers(9)))
    ]
    name = choice(random, CALLED if random.random() < 0.5 else REBUILDERS)
    return name + b"(" + b"".join(arguments) + b"tR"


def choice(random: np.random.Generator, pieces: list[bytes]) -> bytes:
    return pieces[int(random.integers(len(pieces)))]


@pytest.mark.parametrize("damage", [flips, truncations, splices, numbers])
@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_files(seed, damage, tmp_path):
    content, file = SEEDS[seed]()
    path = tmp_path / "f"
    path.write_bytes(file(content))
    assert read_checkpoint(path), "the undamaged file is readable"
    refused = count_refused(map(file, damage(content, np.random.default_rng(0))), path)
    assert refused > RANDOM_CASES / 10


@pytest.mark.parametrize("programs", [soups, calls])
def test_programs_at_random(programs, tmp_path):
    refused = count_refused(map(zip_file, programs(np.random.default_rng(0))), tmp_path / "f")
    assert refused > RANDOM_CASES


def count_refused(files: Iterable[bytes], path: Path) -> int:
    tracemalloc.start()
    try:
        return sum(is_refused(content, path) for content in files)
    finally:
        tracemalloc.stop()


def is_refused(content: bytes, path: Path) -> bool:
    """Read a file and hold the outcome against the reader's promises."""
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    message, arrays = None, {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            arrays = read_checkpoint(path)
        except CheckpointError as error:
            message = str(error)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < MOST_BYTES
    if message is not None:
        assert message.startswith(f"{path} ")
        assert message.isprintable()
        assert len(message) < 700
        return True
    assert arrays
    assert sum(array.nbytes for array in arrays.values()) <= 8 * len(content) + 64 * 2**20
    for name, array in arrays.items():
        assert type(name) is str
        assert type(array) is np.ndarray
        assert not array.flags.writeable
        if array.size:  # both ends of its memory can be read
            array[(0,) * array.ndim].tobytes()
            array[(-1,) * array.ndim].tobytes()
    return False
