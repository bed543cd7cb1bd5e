"""Every promise that the reader could break, broken: what holds it to them sees it."""

import importlib
import os
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.checkpoints.read import CheckpointError
from tests.checkpoints import reader_promises
from tests.checkpoints.reader_promises import all_told, is_refused, memory_traced


def sound() -> dict[str, np.ndarray]:
    array = np.ones(3)
    array.setflags(write=False)
    return {"w": array}


def refuse(message: str) -> None:
    raise CheckpointError(message)


def held(does: Callable[[Path], object], path: Path) -> bool:
    def read(source: Path) -> dict[str, np.ndarray]:
        found = does(source)
        return found if isinstance(found, dict) else sound()

    with memory_traced():
        return is_refused(b"x", path, read=read)


def test_promises_that_are_kept(tmp_path):
    assert not held(lambda source: source.read_bytes(), tmp_path / "f")
    assert held(lambda source: refuse(f"{source} is bad"), tmp_path / "f")


BROKEN = {
    "another error": (KeyError, lambda source: {}["no"]),
    "an import": (RuntimeError, lambda source: importlib.import_module("antigravity")),
    "a program": (RuntimeError, lambda source: exec("1")),
    "a process": (RuntimeError, lambda source: subprocess.run(["true"], check=True)),
    "a system call": (RuntimeError, lambda source: os.system("true")),
    "a file that is written": (RuntimeError, lambda source: source.write_bytes(b"")),
    "a file elsewhere": (RuntimeError, lambda source: Path(__file__).read_bytes()),
    "a file that is taken away": (RuntimeError, lambda source: source.unlink()),
    "no subject": (AssertionError, lambda source: refuse("is bad")),
    "many words": (AssertionError, lambda source: refuse(f"{source} is {'bad' * 300}")),
    "no text to print": (AssertionError, lambda source: refuse(f"{source} is \0")),
    "a warning": (AssertionError, lambda source: warnings.warn("x", stacklevel=1)),
    "much memory": (AssertionError, lambda source: bytes(3 * 2**20)),
    "no arrays": (AssertionError, lambda source: {}),
    "an array that can be written": (AssertionError, lambda source: {"w": np.ones(3)}),
    "a name that is none": (AssertionError, lambda source: {3: sound()["w"]}),
    "a scalar": (AssertionError, lambda source: {"w": np.float32(3)}),
    "a large array": (AssertionError, lambda source: {"w": np.broadcast_to(0.0, (9 * 2**20,))}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_that_is_broken(what, tmp_path):
    error, does = BROKEN[what]
    with pytest.raises(error):
        held(does, tmp_path / "f")


def test_what_is_asked_for_is_seen_though_its_error_is_swallowed(tmp_path):
    def read(source: Path) -> None:
        try:
            importlib.import_module("antigravity")
        except RuntimeError:
            refuse(f"{source} is bad")

    with pytest.raises(AssertionError, match="antigravity"):
        held(read, tmp_path / "f")


def test_much_time(tmp_path, monkeypatch):
    ticks = iter([0.0, 3.0])
    monkeypatch.setattr(time, "process_time", lambda: next(ticks))
    with pytest.raises(AssertionError, match=r"3\.0"):
        held(lambda source: None, tmp_path / "f")


@pytest.mark.parametrize(
    ("others", "settings"), [(("a\0 (int)",), None), ((), [1]), (("a (int)",), {"a": 1})]
)
def test_all_that_is_told(others, settings, monkeypatch):
    contents = Contents("f", (StateDict("", sound(), False),), others, settings)
    monkeypatch.setattr(reader_promises, "contents_of", lambda source: contents)
    if isinstance(settings, dict):
        assert all_told(Path("f")).keys() == {"w"}
    else:
        with pytest.raises(AssertionError):
            all_told(Path("f"))
