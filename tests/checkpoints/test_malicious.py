"""Pickles that try to run code are refused by the name they need, and nothing runs."""

import builtins
import functools
import importlib
import operator
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from flaxblocks.checkpoints.torch_names import ADMITTED, Constructor, StorageType
from flaxblocks.checkpoints.torch_pickle import unpickle
from tests.checkpoints.checkpoint_samples import (
    Call,
    FakeStorage,
    FakeTensor,
    legacy_file,
    pickled,
    zip_file,
)

LEGACY_STORAGE = FakeStorage(numbers=(4, None))
FORMS = {"zip": zip_file, "legacy": legacy_file, "bare": lambda program: b"\x80\x02" + program}


@pytest.fixture(scope="module", autouse=True)
def sound_files_have_been_read(tmp_path_factory):
    """So that whatever sound files make Python import (a codec for names) is imported."""
    path = tmp_path_factory.mktemp("sound") / "f"
    tensors = pickled({"w": FakeTensor()}), pickled({"w": FakeTensor(storage=LEGACY_STORAGE)})
    for content in (zip_file(tensors[0]), legacy_file(tensors[1])):
        path.write_bytes(content)
        assert list(read_checkpoint(path)) == ["w"]


def refusal(program: bytes, form: str, path: Path) -> str:
    """The message for a program in a file, after seeing that reading ran nothing."""
    (path / "f.pth").write_bytes(FORMS[form](program))
    modules = set(sys.modules)
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path / "f.pth")
    assert set(sys.modules) == modules, "reading imported a module"
    assert not (path / "ran").exists()
    return str(raised.value)


def touch(path: Path) -> str:
    return f"touch {path}/ran"


CALLS = {
    "posix.system": lambda path: Call(os.system, (touch(path),)),
    "builtins.eval": lambda path: Call(builtins.eval, (f"open('{path}/ran', 'w')",)),
    "builtins.exec": lambda path: Call(builtins.exec, (f"open('{path}/ran', 'w')",)),
    "builtins.__import__": lambda path: Call(builtins.__import__, ("antigravity",)),
    "importlib.import_module": lambda path: Call(importlib.import_module, ("antigravity",)),
    "subprocess.Popen": lambda path: b"csubprocess\nPopen\n.",
    "commands.Popen": lambda path: Call(subprocess.Popen, (touch(path), -1, None)),  # Python 2's
    "builtins.getattr": lambda path: Call(builtins.getattr, (Call(getattr, ("", "join")), "x")),
    "operator.attrgetter": lambda path: Call(operator.attrgetter, ("__class__.__base__",)),
    "builtins.compile": lambda path: Call(functools.partial, (compile, 1)),
    "types.CodeType": lambda path: b"ctypes\nCodeType\n.",
    # `io.open`, from Python 3.13 on `_io.open`
    f"{builtins.open.__module__}.open": lambda path: Call(builtins.open, (f"{path}/ran", "w")),
    "torch.storage._load_from_bytes": lambda path: Call(torch.storage._load_from_bytes, (b"",)),
    "torch.serialization.load": lambda path: b"ctorch\nserialization.load\nX\1\0\0\0f\x85R.",
    "torch.hub.load": lambda path: b"ctorch.hub\nload\n)R.",
    "torch._utils._rebuild_sparse_tensor.__globals__": lambda path: (
        b"ctorch._utils\n_rebuild_sparse_tensor.__globals__\n."
    ),
    "collections.OrderedDict.fromkeys": lambda path: b"ccollections\nOrderedDict.fromkeys\n.",
    "numpy.load": lambda path: b"cnumpy\nload\n.",
    "numpy.f2py.diagnose.os.system": lambda path: b"cnumpy.f2py.diagnose\nos.system\n.",
    "pickle.loads": lambda path: Call(pickle.loads, (pickle.dumps(1),)),
    "codecs.decode": lambda path: b"ccodecs\ndecode\n.",
    "builtins.__dict__": lambda path: b"cbuiltins\n__dict__\n.",
    "torch._utils.torch.os.system": lambda path: b"ctorch._utils\ntorch.os.system\n.",
    "flaxblocks.checkpoints.read.os.system": lambda path: (
        b"cflaxblocks.checkpoints.read\nos.system\n."
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_a_callable_is_refused_by_name(name, form, tmp_path):
    made = CALLS[name](tmp_path)
    program = made if isinstance(made, bytes) else pickled({"w": made})
    message = refusal(program, form, tmp_path)
    assert f"refers to `{name}`, which no checkpoint needs" in message


def test_the_payloads_are_real(tmp_path):
    """Python's own unpickler does run them."""
    pickle.loads(pickled(CALLS["posix.system"](tmp_path)))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_in_every_protocol(protocol, tmp_path):
    program = pickled({"w": CALLS["posix.system"](tmp_path)}, protocol)
    assert "`posix.system`" in refusal(program, "zip", tmp_path)


def test_a_name_put_together_on_the_stack(tmp_path):
    program = b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93."
    assert "`torch.serialization.load`" in refusal(program, "zip", tmp_path)
    program = b"\x80\x04K\x01\x8c\x06system\x93."
    assert "a name that is not text" in refusal(program, "zip", tmp_path)


def test_a_name_is_printed_safely(tmp_path):
    program = b"c\x1b[31mevil\x07\nx" + b"A" * 10_000 + b"\n."
    message = refusal(program, "zip", tmp_path)
    assert message.isprintable()
    assert len(message) < 400 + len(str(tmp_path))


OPCODES = {
    "i": b"(ios\nsystem\n.",  # INST
    "\x82": b"\x82\x01.",  # EXT1
    "\x83": b"\x83\x01\x00.",
    "\x84": b"\x84\x01\x00\x00\x00.",
    "P": b"Pid\n.",  # PERSID
    "\x97": b"\x97.",  # NEXT_BUFFER
    "\x98": b"N\x98.",  # READONLY_BUFFER
    "I": b"I1\n.",  # text opcodes of protocol 0
    "\xff": b"\xff",
}


@pytest.mark.parametrize("opcode", OPCODES)
def test_opcodes_that_torch_does_not_use(opcode, tmp_path):
    message = refusal(b"\x80\x02" + OPCODES[opcode], "zip", tmp_path)
    assert f"uses the pickle opcode {ord(opcode):#04x}" in message


def result(program: bytes) -> object:
    return unpickle(program, 0, len(program), lambda named: named)[0]


@pytest.mark.parametrize("name", ADMITTED, ids=".".join)
def test_build_changes_nothing(name):
    """BUILD on an admitted name, on what it constructs, and on containers, drops its state."""
    module, attribute = name
    found = ADMITTED[name]
    shown = repr(found)
    state = b"}X\x04\x00\x00\x00nameX\x04\x00\x00\x00evils"
    for ending in (state + b"b.", b"N" + state + b"\x86b."):  # the latter sets slots
        program = f"c{module}\n{attribute}\n".encode() + ending
        assert result(program) is found
    assert repr(ADMITTED[name]) == shown
    assert isinstance(found, Constructor | StorageType | np.dtype)


def test_build_runs_no_setstate():
    ordered = b"ccollections\nOrderedDict\n)R"
    assert result(ordered + b"X\x01\0\0\0aK\x01s}X\x0c\0\0\0__setstate__K\x01sb.") == {"a": 1}


def test_only_constructors_are_called(tmp_path):
    for target in (
        b"K\x01",
        b"X\x04\0\0\0eval",
        b"}",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nint8\n",
    ):
        assert "which is not callable" in refusal(target + b")R.", "zip", tmp_path)
        assert "which is not callable" in refusal(target + b")\x81.", "zip", tmp_path)
        assert "which is not callable" in refusal(target + b")}\x92.", "zip", tmp_path)
        assert "which is not callable" in refusal(b"(" + target + b"o.", "zip", tmp_path)
    assert "which is not callable" in refusal(b"(o.", "zip", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        b")",
        b"K\x01",
        b"]",
        b"N\x85",
        b"(NK\x00))\x89}t",
        b"(X\x01\0\0\0aK\x00))\x89}t",
        b"(" + b"N" * 99 + b"t",
    ],
)
@pytest.mark.parametrize(
    "name", [name for name, found in ADMITTED.items() if name[0] == "torch._utils"], ids=".".join
)
def test_wrong_arguments_of_a_constructor(name, arguments, tmp_path):
    program = f"c{name[0]}\n{name[1]}\n".encode() + arguments + b"R."
    message = refusal(program, "zip", tmp_path)
    assert f"calls `{'.'.join(name)}` with arguments that it does not take" in message


def test_nested_rebuilding_does_not_recurse(tmp_path):
    """`_rebuild_from_type_v2` of itself, a hundred thousand levels deep."""
    name = b"ctorch._tensor\n_rebuild_from_type_v2\nq\0ctorch\nTensor\nq\1"
    program = name + b")q\2" + b"(h\0h\1h\2Ntq\2" * 100_000 + b"h\0h\2R."
    assert "arguments that it does not take" in refusal(program, "zip", tmp_path)


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/etc/passwd", "..", "", "0/../0", "data.pkl", "1", "\0", "0 "]
)
def test_a_storage_outside_of_the_archive(key, tmp_path):
    tensor = FakeTensor(storage=FakeStorage(key))
    message = refusal(pickled({"w": tensor}), "zip", tmp_path)
    assert "which the file does not hold" in message
    legacy = FakeTensor(storage=FakeStorage(key, (4, None)))
    message = refusal(pickled({"w": legacy}), "legacy", tmp_path)
    assert "lists a storage '0' that no tensor uses" in message


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    "named",
    [
        b"N",
        b"X\x01\0\0\0a",
        b")",
        b"(X\x07\0\0\0storaget",
        b"(X\x07\0\0\0storageNX\x01\0\0\x000Nt",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nK\x00NK\x04Nt",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NX\x01\0\0\x004t",
        b"(X\x07\0\0\0storagectorch\nint8\nX\x01\0\0\x000NK\x04t",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NJ\xff\xff\xff\xfft",
        b"(X\x05\0\0\0otherctorch\nFloatStorage\nX\x01\0\0\x000NK\x04t",
    ],
)
def test_persistent_ids_of_another_shape(named, form, tmp_path):
    assert "refers to a storage in an unknown way" in refusal(named + b"Q.", form, tmp_path)


def test_persistent_ids_outside_of_the_object(tmp_path):
    assert "outside of the pickled object" in refusal(b"\x80\x02NQ.", "bare", tmp_path)


def test_a_module_in_a_legacy_file(tmp_path):
    program = b"(X\x06\0\0\0moduleNNNtQ."
    assert "in an unknown way" in refusal(program, "legacy", tmp_path)
    program = b"(X\x06\0\0\0modulecos\nsystem\nNNtQ."
    assert "`os.system`" in refusal(program, "legacy", tmp_path)


@pytest.mark.parametrize(
    "view", [(1,), "x", ("7", -1, 2), ("7", 0, -2), ("7", 3, 2), ("7", 0, 5), ("7", "0", 2)]
)
def test_legacy_views_beyond_their_storage(view, tmp_path):
    tensor = FakeTensor(0, (1,), (1,), FakeStorage("0", (4, view)))
    assert "has a view of the storage '0'" in refusal(pickled({"w": tensor}), "legacy", tmp_path)


@pytest.mark.parametrize("view", [None, ("7", 0, 0)])
def test_a_legacy_storage_of_negative_size(view, tmp_path):
    tensor = FakeTensor(0, (0,), (1,), FakeStorage("0", (-4, view)))
    assert "has a view of the storage '0'" in refusal(pickled({"w": tensor}), "legacy", tmp_path)


def test_the_samples_are_readable():
    """What is refused above is refused for its content, not for the way the samples are made."""
    value = {"a": [1, 2.5, "x", None, (True,)]}
    assert result(pickled(value)) == value
