"""Being asked to stop: SIGTERM and Ctrl-C become a question that the loop asks between steps."""

import os
import signal
import sys
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["StopRequest", "Stopped"]


class Stopped(Exception):
    """The run was asked to stop and has saved. `code` is the shell's: 128 + the signal."""

    def __init__(self, message: str, code: int):
        """Say what was saved, and with which status to leave."""
        super().__init__(message)
        self.code = code


class StopRequest:
    """While the block runs, a signal is noted and not obeyed at once; a second one is.

    With several processes JAX itself listens for SIGTERM, so that all of them stop at the same
    place, whichever got it; Ctrl-C is passed on to it.
    """

    def __enter__(self) -> "StopRequest":
        self.signal = 0
        self.asked = 0  # times that the loop asked, the same in all processes
        self.many = jax.process_count() > 1
        numbers = (signal.SIGINT,) if self.many else (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._obey()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._obey()
        print("train: stopping; again leaves at once, without saving", file=sys.stderr, flush=True)
        if self.many:
            os.kill(os.getpid(), signal.SIGTERM)

    def _obey(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Of a process that the signal ended."""
        return 128 + (self.signal or signal.SIGTERM)

    def reached(self) -> bool:
        """Whether to stop here, the same in all processes."""
        self.asked += 1
        if self.many:
            return multihost_utils.reached_preemption_sync_point(self.asked)
        return bool(self.signal)
