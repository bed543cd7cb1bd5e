"""Objects of classes that are no tensors lie beside the weights, and nothing of them runs."""

import functools
import io
import pickle
import random
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import FakeTensor, pickled, zip_file


class Options(dict):
    """A kind of dict, with attributes of its own."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("nothing of a checkpoint's classes may run")


class Rows(list):
    """A kind of list."""


class History:
    def __init__(self) -> None:
        self.values = np.arange(3)

    def __reduce_ex__(self, protocol: object) -> tuple:
        return sorted, ((),), {"values": self.values}


class Keywords:
    def __new__(cls, *, size: int = 1) -> "Keywords":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple:
        return (), {"size": 2}


OBJECTS = {
    "a kind of dict": Options(a=1, b=[2]),
    "an object with attributes": History(),
    "keyword arguments": Keywords(),
    "a partial function": functools.partial(sorted, reverse=True),
    "a class": OrderedDict,
    "an unknown class": History,
    "a random state": np.random.RandomState(0),
    "a generator": np.random.default_rng(0),
    "python's own": random.Random(0),
    "a kind of list": Rows([1, 2]),
    "a set": {1, "a"},
    "text in memory": io.StringIO("text"),
    "a namespace": types.SimpleNamespace(a=1),
    "an error": ValueError("x"),
}


@pytest.mark.parametrize(
    ("what", "protocol"),
    [
        (what, protocol)
        for what in OBJECTS
        for protocol in (2, 4, 5)
        if protocol > 2 or what != "keyword arguments"  # for which it writes `getattr`
    ],
)
def test_it_is_passed_over(what, protocol, tmp_path):
    saved = {"config": OBJECTS[what], "state_dict": {"w": torch.ones(2)}, "more": [OBJECTS[what]]}
    torch.save(saved, tmp_path / "f", pickle_protocol=protocol)
    del saved
    contents = contents_of(tmp_path / "f")
    assert contents.state_dicts[0].key == "state_dict"
    assert contents.state_dicts[0].arrays["w"].tolist() == [1, 1]
    assert "more (list of 1)" in contents.others


def test_a_module_that_is_not_there_is_not_looked_for(tmp_path):
    odd = b"cno.such.module\nThing\n(K\x01K\x02t\x81}X\x01\0\0\0aK\x01sb"
    program = (
        b"\x80\x02}(X\x01\0\0\0c" + odd + b"X\x01\0\0\0w" + pickled(FakeTensor())[2:-1] + b"u."
    )
    (tmp_path / "f").write_bytes(zip_file(pickled({"w": FakeTensor()})))
    read_checkpoint(tmp_path / "f")  # which imports a codec for names
    before = set(sys.modules)
    (tmp_path / "f").write_bytes(zip_file(program))
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]
    assert set(sys.modules) == before


def test_a_module_that_is_there_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    odd = b"cnever_imported\nThing\n)\x81}X\x01\0\0\0aK\x01sb"
    program = b"\x80\x02}(X\x01\0\0\0c" + odd + b"X\x01\0\0\0w"
    (tmp_path / "f").write_bytes(zip_file(program + pickled(FakeTensor())[2:-1] + b"u."))
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]


def test_python_2_objects(tmp_path):
    odd = b"(cutil\nArgs\nK\x01o}X\x01\0\0\0aK\x01sb"
    program = (
        b"\x80\x02}(X\x01\0\0\0c" + odd + b"X\x01\0\0\0w" + pickled(FakeTensor())[2:-1] + b"u."
    )
    (tmp_path / "f").write_bytes(zip_file(program))
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]


@pytest.mark.parametrize("module", [b"copyreg", b"copy_reg"])  # the latter is Python 2's
@pytest.mark.parametrize(
    ("made_of", "kind"), [(b"util\nArgs", "util.Args"), (b"os.path\njoin", None), (None, "copyreg")]
)
def test_objects_of_the_first_protocols(made_of, kind, module, tmp_path):
    """`_reconstructor(class, object, None)`, as protocols 0 and 1 make an object."""
    given = b"K\1" if made_of is None else b"c" + made_of + b"\n"
    odd = b"c" + module + b"\n_reconstructor\n(" + given + b"c__builtin__\nobject\nNtR"
    program = b"\x80\x02}(X\x01\0\0\0c" + odd + b"}X\x01\0\0\0aK\x01sbX\x01\0\0\0w"
    (tmp_path / "f").write_bytes(zip_file(program + pickled(FakeTensor())[2:-1] + b"u."))
    if kind is None:
        with pytest.raises(CheckpointError, match=r"refers to `os.path.join`"):
            read_checkpoint(tmp_path / "f")
    else:
        (other,) = contents_of(tmp_path / "f").others
        assert other.startswith(f"c ({kind}")


def test_a_state_dict_of_an_unknown_kind_of_dict(tmp_path):
    torch.save(Options(model=Options(w=torch.ones(2))), tmp_path / "f")
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]


def test_a_tensor_that_needs_an_unknown_function_is_refused_by_its_name(tmp_path):
    call = pickled(FakeTensor())[2:-1].replace(b"torch._utils\n_rebuild_tensor_v2", b"lib\nmade")
    program = (
        b"\x80\x02}(X\x01\0\0\0v" + call + b"X\x01\0\0\0w" + pickled(FakeTensor())[2:-1] + b"u."
    )
    (tmp_path / "f").write_bytes(zip_file(program))
    with pytest.raises(CheckpointError, match=r"a tensor 'v' that only `lib.made` can make: refus"):
        read_checkpoint(tmp_path / "f")
    program = (
        b"\x80\x02}X\x01\0\0\0vctorch._tensor\n_rebuild_from_type_v2\n(clib\nmade\nclib\nT\n)NtRs."
    )
    (tmp_path / "f").write_bytes(zip_file(program))
    with pytest.raises(CheckpointError, match=r"a tensor that only `lib.made` can make: refused"):
        read_checkpoint(tmp_path / "f")


def test_a_subclass_rebuilt_by_torch_itself_is_its_tensor(tmp_path):
    inner = pickled(FakeTensor())[2:-1]
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    at = inner.index(b"(", len(rebuild))
    assert inner.startswith(rebuild)
    call = b"ctorch._tensor\n_rebuild_from_type_v2\n(" + rebuild + b"clib\nImage\n"
    program = b"\x80\x02}X\1\0\0\0w" + call + inner[at : inner.rindex(b"R")] + b"NtRs."
    (tmp_path / "f").write_bytes(zip_file(program))
    assert read_checkpoint(tmp_path / "f")["w"].tolist() == [1, 2, 3, 4]


def test_pickled_tensors_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps({"w": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"_load_from_bytes`.*save tensors with `torch.save`"):
        read_checkpoint(tmp_path / "f")
