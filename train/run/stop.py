"""Requests to stop: SIGTERM and Ctrl-C set a flag that the loop checks between steps."""

import os
import signal
import sys
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["StopRequest", "Stopped"]


class Stopped(Exception):
    """The run was asked to stop and has been saved; `code` is the exit status, 128 + the signal."""

    def __init__(self, message: str, code: int):
        """Take a message that says what was saved, and the exit status."""
        super().__init__(message)
        self.code = code


class StopRequest:
    """While the block runs, a first signal is only noted; a second one takes effect at once.

    With several processes, JAX itself handles SIGTERM, so that all of them stop at the same step,
    whichever received it; Ctrl-C is forwarded as SIGTERM.
    """

    def __enter__(self) -> "StopRequest":
        self.signal = 0
        self.asked = 0  # number of calls of `reached`, the same in all processes
        self.many = jax.process_count() > 1
        numbers = (signal.SIGINT,) if self.many else (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._obey()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._obey()
        print("train: stopping; repeat to quit now, without saving", file=sys.stderr, flush=True)
        if self.many:
            os.kill(os.getpid(), signal.SIGTERM)

    def _obey(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The exit status of a process that the signal ended."""
        return 128 + (self.signal or signal.SIGTERM)

    def reached(self) -> bool:
        """Whether to stop here; the answer is the same in all processes."""
        self.asked += 1
        if self.many:
            return multihost_utils.reached_preemption_sync_point(self.asked)
        return bool(self.signal)
