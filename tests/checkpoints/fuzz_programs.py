"""Pickle programs at random, of the pieces that real ones are made of."""

import pickle
import struct
from collections.abc import Iterator

import numpy as np

from flaxblocks.checkpoints import torch_pickle
from flaxblocks.checkpoints.torch_names import ADMITTED, Constructor
from tests.checkpoints.checkpoint_samples import FakeStorage, FakeTensor, pickled

__all__ = ["EXTREMES", "OPCODES", "RANDOM_CASES", "VALUES", "call", "calls", "choice", "soups"]

RANDOM_CASES = 200
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63, 2**64 - 1]

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
