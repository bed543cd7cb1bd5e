"""Numbers in a file are believed only as far as the file bears them out, in memory and in time."""

import struct
import tracemalloc

import numpy as np
import pytest
import torch
import torch._utils

from flaxblocks.checkpoints import pickle_bytes, torch_pickle
from flaxblocks.checkpoints.read import read_checkpoint
from tests.checkpoints.checkpoint_samples import (
    FakeStorage,
    FakeTensor,
    cheap_refusal,
    legacy_file,
    pickled,
    zip_file,
)

HUGE = 2**62


# (offset, size, stride) of a tensor in a storage of four floats, and what is said of it.
LAYOUTS = [
    ((1, (4,), (1,)), "reaches to byte 20 of the storage '0', which has 16"),
    ((0, (5,), (1,)), "reaches to byte 20"),
    ((0, (3,), (2,)), "reaches to byte 20"),
    ((0, (2, 3), (3, 1)), "reaches to byte 24"),
    ((4, (), ()), "reaches to byte 20"),
    ((5, (0,), (1,)), "reaches to byte 20"),
    ((-1, (2,), (1,)), "negative"),
    ((0, (-1,), (1,)), "negative"),
    ((3, (2,), (-1,)), "negative"),
    ((0, (-(2**40), -(2**40)), (0, 0)), "negative"),
    ((HUGE, (1,), (1,)), "reaches to byte"),
    ((2**64, (1,), (1,)), "beyond 64 bits"),
    ((0, (2**64,), (0,)), "beyond 64 bits"),
    ((0, (2,), (2**62,)), "reaches to byte"),
    ((0, (HUGE,), (0,)), "far more than the file holds"),
    ((0, (HUGE, HUGE, HUGE), (0, 0, 0)), "far more than the file holds"),
    ((0, (2**15, 2**15), (0, 0)), "far more than the file holds"),
    ((0, (0, HUGE, HUGE), (1, 1, 1)), "too large for an array"),
    ((0, (2, 2), (1,)), "has 2 sizes and 1 strides"),
    ((0, (1,) * 65, (1,) * 65), "arguments that it does not take"),
    ((0, 4, (1,)), "arguments that it does not take"),
    ((0, (4.0,), (1,)), "arguments that it does not take"),
    ((0, (True,), (1,)), "arguments that it does not take"),
    ((None, (4,), (1,)), "arguments that it does not take"),
]


@pytest.mark.parametrize(("layout", "said"), LAYOUTS)
def test_layouts_beyond_the_storage(layout, said, tmp_path):
    program = pickled({"w": FakeTensor(*layout)})
    assert said in cheap_refusal(zip_file(program), tmp_path)
    storage = FakeStorage(numbers=(4, None))
    program = pickled({"w": FakeTensor(*layout, storage=storage)})
    assert said in cheap_refusal(legacy_file(program), tmp_path)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ((0, (2, 2), (1, 2)), [[1, 3], [2, 4]]),
        ((0, (3, 2), (1, 1)), [[1, 2], [2, 3], [3, 4]]),
        ((3, (2, 3), (0, 0)), [[4] * 3] * 2),
        ((3, (1, 1), (HUGE, HUGE)), [[4]]),
        ((4, (0, 2), (HUGE, 1)), np.zeros((0, 2))),
        ((2, (), ()), 3),
    ],
)
def test_unusual_layouts_within_the_storage(layout, expected, tmp_path):
    (tmp_path / "f").write_bytes(zip_file(pickled({"w": FakeTensor(*layout)})))
    array = read_checkpoint(tmp_path / "f")["w"]
    np.testing.assert_array_equal(array, expected)
    assert array.copy().shape == array.shape


def test_a_broadcast_is_lazy_and_bounded(tmp_path):
    """A view of 40 MB over 16 bytes is made for nothing; two are more than such a file may ask."""
    wide = FakeTensor(0, (10, 2**20), (0, 0))
    (tmp_path / "f").write_bytes(zip_file(pickled({"w": wide})))
    tracemalloc.start()
    array = read_checkpoint(tmp_path / "f")["w"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.nbytes == 40 * 2**20
    assert peak < 2**20
    assert "a tensor 'v' that expands" in cheap_refusal(
        zip_file(pickled({"w": wide, "v": wide})), tmp_path
    )


@pytest.mark.parametrize("lazy", ["conj", "neg"])
@pytest.mark.parametrize("kind", [torch.BoolStorage, torch.BFloat16Storage, torch.ByteStorage])
def test_lazy_bits_on_a_dtype_that_never_has_them(kind, lazy, tmp_path):
    tail = (False, {}, {lazy: True})
    tensor = FakeTensor(storage=FakeStorage(kind=kind), tail=tail)
    assert "as conjugated or negated" in cheap_refusal(zip_file(pickled({"w": tensor})), tmp_path)


@pytest.mark.parametrize("numbers", [(5,), (HUGE,), (2**80,)])
def test_storages_larger_than_their_record(numbers, tmp_path):
    tensor = FakeTensor(0, (1,), (1,), FakeStorage(numbers=numbers))
    said = cheap_refusal(zip_file(pickled({"w": tensor})), tmp_path)
    assert f"needs {numbers[0] * 4} bytes of the storage '0', which holds 16" in said


def test_an_untyped_storage_counts_bytes(tmp_path):
    storage = FakeStorage(numbers=(15,), kind=torch.UntypedStorage)
    tail = (False, {}, torch.float32)
    tensor = FakeTensor(0, (4,), (1,), storage, tail, torch._utils._rebuild_tensor_v3)
    said = cheap_refusal(zip_file(pickled({"w": tensor})), tmp_path)
    assert "reaches to byte 16 of the storage '0', which has 15" in said


@pytest.mark.parametrize(
    ("keys", "tail", "said"),
    [
        (["0"], b"", "truncated"),
        (["0"], struct.pack("<q", 4), "truncated"),
        (["0"], struct.pack("<q3f", 4, 1, 2, 3), "beyond the file's end"),
        (["0"], struct.pack("<q4f", 5, 1, 2, 3, 4), "should have 16 bytes"),
        (["0"], struct.pack("<q4f", -4, 1, 2, 3, 4), "should have 16 bytes"),
        (["0", "0"], None, "'0' that no tensor uses, or lists it twice"),
        (["1"], None, "'1' that no tensor uses, or lists it twice"),
        ([], None, "which the file does not hold"),
        ([0], None, "not a list of keys"),
    ],
)
def test_legacy_tails(keys, tail, said, tmp_path):
    program = pickled({"w": FakeTensor(storage=FakeStorage(numbers=(4, None)))})
    assert said in cheap_refusal(legacy_file(program, keys, tail), tmp_path)


# Programs of a few bytes that claim to hold much, or to need much.
CLAIMS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"abc.",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"abc.",
    "short bytes": b"\x80\x03B\xff\xff\xff\xffabc.",
    "byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"abc.",
    "text": b"\x80\x02X\xff\xff\xff\xffabc.",
    "long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"abc.",
    "python 2 text": b"\x80\x02T\xff\xff\xff\xffabc.",
    "unfinished name": b"\x80\x02c" + b"a" * 1000,
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_lengths_are_not_believed(name, tmp_path):
    assert "its pickle is cut short" in cheap_refusal(zip_file(CLAIMS[name]), tmp_path)


def test_frames_are_not_believed(tmp_path):
    program = b"\x80\x04\x95" + struct.pack("<Q", HUGE) + pickled({"w": FakeTensor()})[2:]
    (tmp_path / "f").write_bytes(zip_file(program))
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]


def test_a_memo_index_costs_one_entry(tmp_path):
    program = b"\x80\x02Nr\xff\xff\xff\xff."
    assert "it is a nonetype" in cheap_refusal(zip_file(program), tmp_path)


@pytest.mark.parametrize("count", [b"\xff\xff\xff\x7f", b"\x00\x01\x00\x00"])
def test_long_integers(count, tmp_path):
    program = b"\x80\x02\x8b" + count + b"\x01" * 300 + b"."
    assert "holds an integer of" in cheap_refusal(zip_file(program), tmp_path)


BOMBS = {
    # Each level holds the one below twice: a million levels would be 2**1000000 leaves.
    "doubling tuples": b")" + b"2\x86" * 100_000 + b".",
    "doubling tuples as a key": b"}(" + b")" + b"2\x86" * 100_000 + b"K\x01u.",
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples as a key": b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u.",
    "deep dicts": b"}" + b"X\x05\0\0\0model}" * 50_000 + b"s" * 50_000 + b".",
    "deep persistent id": b")" + b"\x85" * 100_000 + b"Q.",
    "marks": b"(" * 100_000 + b".",
    "a dict within itself": b"}q\0X\x05\0\0\0modelh\0s.",
    "doubling arguments": b")" + b"2\x86" * 1000 + b"q\0ctorch._utils\n_rebuild_tensor_v2\nh\0R.",
    # One long list named by every call: must not be copied or looked through each time.
    "a long list many times": (
        b"](" + b"N" * 50_000 + b"eq\0(" + b"ccollections\nOrderedDict\nq\1"
        b"ctorch\nSize\nq\2"
        + b"ccollections\nCounter\nq\3}q\4("
        + b"".join(b"X\4\0\0\0" + b"%04x" % i + b"K\1" for i in range(5_000))
        + b"u"
        + b"h\3h\4\x85R" * 20_000
        + b"t."
    ),
    # Numbers that all hash alike.
    "colliding keys": b"}("
    + b"".join(b"\x8a\x0c" + ((2**61 - 1) * i).to_bytes(12, "little") + b"N" for i in range(60_000))
    + b"u.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name, tmp_path):
    cheap_refusal(zip_file(b"\x80\x02" + BOMBS[name]), tmp_path, megabytes=64)


def test_a_long_list_is_used_up(tmp_path):
    """Python 2's `OrderedDict([...])` of one list gives its items once."""
    pairs = b"](" + b"".join(b"X\4\0\0\0" + b"%04x" % i + b"N\x86" for i in range(10_000))
    program = (
        b"\x80\x02" + pairs + b"eq\0(" + b"ccollections\nOrderedDict\nh\0\x85R" * 2_000 + b"t."
    )
    cheap_refusal(zip_file(program), tmp_path, megabytes=16)


def test_a_long_size_is_not_looked_through(tmp_path):
    call = b"ctorch._utils\n_rebuild_tensor\n(ctorch\nint8\nK\0h\0h\0tR"
    program = b"\x80\x02](" + b"K\1" * 100_000 + b"eq\0" + call
    assert "arguments that it does not take" in cheap_refusal(zip_file(program + b"."), tmp_path)


def test_pickles_have_a_greatest_length(monkeypatch, tmp_path):
    monkeypatch.setattr(torch_pickle, "MOST_OPCODES", 1000)
    monkeypatch.setattr(pickle_bytes, "MOST_BYTES", 5000)
    assert "more than 1000 opcodes" in cheap_refusal(zip_file(b"N" * 1001), tmp_path)
    program = (b"X" + struct.pack("<I", 1000) + bytes(1000)) * 6 + b"."
    assert "more than 5000 bytes" in cheap_refusal(zip_file(program), tmp_path)
    assert "more than 5000 bytes" in cheap_refusal(legacy_file(program), tmp_path)


def test_damaged_stacks(tmp_path):
    for program in (b".", b"0.", b"1.", b"t.", b"u.", b"}s.", b"R.", b"Nb.", b"b.", b"Q.", b"h\0."):
        message = cheap_refusal(zip_file(program), tmp_path)
        assert "damaged pickle" in message or "refers to a storage" in message, program
    for program in (
        b"\x86.",
        b"N\x86.",
        b"X\1\0\0\0\xff.",
        b"c\xff\nx\n.",
        b"2.",
        b"q\0.",
        b"\x94.",
    ):
        assert "damaged pickle" in cheap_refusal(zip_file(program), tmp_path), program
    assert "appends to a dict" in cheap_refusal(zip_file(b"}Na."), tmp_path)
    assert "keys and values of a list" in cheap_refusal(zip_file(b"]NNs."), tmp_path)
    assert "sets 1 keys and values" in cheap_refusal(zip_file(b"}(Nu."), tmp_path)
