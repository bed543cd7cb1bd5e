"""The program that makes up files for the reader: what it makes, and that it holds the reader."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

from flaxblocks.checkpoints.read import read_checkpoint
from flaxblocks.checkpoints.torch_names import Constructor
from flaxblocks.checkpoints.torch_pickle import OPCODES, unpickle
from tests.checkpoints.fuzz_seeds import SEEDS
from tests.checkpoints.reader_promises import memory_traced
from tools import fuzz_reader
from tools.fuzz_reader import Harness, boundaries, mutated, seeds_of


@pytest.mark.parametrize("which", ["files", "parts"])
def test_sound_and_damaged_inputs_keep_the_promises(which: str, tmp_path: Path) -> None:
    harness = Harness(seeds_of(which), tmp_path)
    with memory_traced():
        for data in harness.inputs():
            for damaged in (data, data[: len(data) // 2], data[:1], b"", bytes([255]) + data[1:]):
                harness(damaged)


def test_every_kind_of_file_is_read() -> None:
    kinds = [len(seeds_of(which)) for which in ("files", "parts")]
    assert min(kinds) > 5
    assert sum(kinds) == len(SEEDS) < 256  # for a byte tells them apart


@pytest.mark.parametrize("which", ["files", "parts"])
def test_a_promise_that_is_broken_is_seen_in_every_kind(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(seeds_of(which), tmp_path)
    read = []

    def is_refused(content: bytes, path: Path, source: Path, *_: object) -> bool:
        read.append(path)
        raise AssertionError("a promise")

    monkeypatch.setattr(fuzz_reader, "is_refused", is_refused)
    for data in harness.inputs():
        with pytest.raises(AssertionError, match="a promise"):
            harness(data)
    assert read == harness.paths


def test_a_program_is_cut_between_its_opcodes() -> None:
    assert boundaries(b"\x80\x02}X\1\0\0\0aK\1s.") == [0, 2, 3, 9, 11, 12, 13]
    assert boundaries(b"\x80\x02}\xff.") == [0, 2, 5]
    assert boundaries(b"") == [0]


def test_programs_change_a_little_and_always_alike() -> None:
    program = b"\3" + SEEDS["zip's pickle"]().content
    made = [mutated(program, 10_000, number, lambda data, most: b"other") for number in range(200)]
    assert made == [
        mutated(program, 10_000, number, lambda data, most: b"other") for number in range(200)
    ]
    own = [data for data in made if data != b"other"]
    assert 60 < len(own) < 140
    assert len({*own}) > 50
    assert all(data[:1] == b"\3" for data in own)
    assert np.median([abs(len(data) - len(program)) for data in own]) < 200
    assert max(len(mutated(program, 99, number, lambda *_: b"")) for number in range(99)) == 99


def test_what_is_no_program_is_left_to_others() -> None:
    for data in (b"", b"\0", b"\0{}"):
        made = {mutated(data, 9, number, lambda data, most: data * most) for number in range(20)}
        assert made == {data * 9}


def test_all_functions_of_the_reader_are_watched() -> None:
    gc.unfreeze()  # of the tests' configuration, which would hide them
    functions = fuzz_reader._reader_functions()
    gc.freeze()
    assert {read_checkpoint, unpickle, OPCODES[pickle.PROTO[0]], Constructor.__call__} <= {
        *functions
    }
    assert test_all_functions_of_the_reader_are_watched not in functions
