"""Being asked to stop: SIGTERM and Ctrl-C become a question that the loop asks between steps."""

import signal
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

    With several processes JAX itself listens for SIGTERM, so that all of them stop after the same
    step, whichever got it.
    """

    def __enter__(self) -> "StopRequest":
        self.signal = 0
        many = jax.process_count() > 1
        numbers = (signal.SIGINT,) if many else (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._obey()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._obey()

    def _obey(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Of a process that the signal ended."""
        return 128 + (self.signal or signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`, the same in all processes."""
        if jax.process_count() == 1:
            return bool(self.signal)
        return multihost_utils.reached_preemption_sync_point(step)
