"""Signals, the lock and the exit status."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import guarded
from train.run.lock import alone_in
from train.run.loop import Diverged
from train.run.stop import Stopped, StopRequest
from train.settings.config import Config
from train.settings.flags import command_of


@pytest.fixture
def _python_obeys_sigint() -> Iterator[None]:
    """Also where a shell started the tests in the background, which then ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_obeys_sigint")
def test_a_second_signal_is_obeyed_at_once() -> None:
    with StopRequest() as stop:
        assert not stop.reached()
        signal.raise_signal(signal.SIGINT)
        assert stop.reached()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_after_the_block_signals_are_as_before() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with StopRequest():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_lock_names_the_process_that_holds_it_now(tmp_path: Path) -> None:
    for _ in range(2):
        with alone_in(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
            message = rf"in use by another run, process {os.getpid()}: give"
            with pytest.raises(ValueError, match=message), alone_in(tmp_path):
                pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Diverged("no number"), 1),
        (ValueError("a setting"), 2),
        (OSError("the disk"), 2),
        (MemoryError("of the device"), 2),
        (Stopped("saved", 143), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_end_has_its_exit_status(error: BaseException, status: int) -> None:
    def end(_: Config) -> Any:
        raise error

    assert guarded(command_of(end, help=""), []) == status
