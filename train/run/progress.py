"""The progress that a run shows: a bar on a terminal, and one line per epoch in any case."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "sentence"]

TELL_EVERY = 60.0  # seconds between lines if there is no terminal


class Progress:
    """Progress, speed and remaining time, shown by the main process only.

    A terminal shows a bar; a file gets one line per minute.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        epochs: int,
        batch_size: int,
        start: int,
        before: float,
        *,
        show: bool,
    ):
        """Start at step `start`, after `before` seconds in earlier processes."""
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.batch_size = batch_size
        self.start = start
        self.before = before
        self.show = show
        self.began = time.perf_counter()
        self.compiled = False  # until the end of the first step, which is not timed
        self.mark = (start, self.began)  # step and time from which speed is measured
        self.images_per_second = 0.0  # over this epoch's steps, without compilation
        self.measuring = math.inf  # duration of the shortest evaluation so far, in seconds
        self.told = self.began  # when the last line was printed
        self.bar: tqdm | None = None

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Open the bar of `epoch`, counted from 0, after `step` steps in total."""
        self.mark = (step, time.perf_counter())
        self.title = f"epoch {epoch + 1}/{self.epochs}"
        self.bar = tqdm(
            total=self.steps_per_epoch,
            initial=step - epoch * self.steps_per_epoch,
            desc=self.title,
            unit="step",
            leave=False,
            disable=None if self.show else True,
        )

    def advance(self, step: int, loss: float, top1: float) -> None:
        """Show the progress after `step` steps."""
        bar = self.bar
        self.images_per_second = self._measured(step)
        if bar is None or not self.show:
            return
        text = f"loss {loss:.3f}, top-1 {top1:.1f}%"
        if self.images_per_second:
            left = duration(self.seconds_left(step))
            text += f", {self.images_per_second:,.0f} images/s, {left} left"
        taken = (step - 1) % self.steps_per_epoch + 1
        if not bar.disable:
            bar.set_postfix_str(text, refresh=False)
            bar.update(taken - bar.n)
        elif time.perf_counter() - self.told > TELL_EVERY:
            print(f"{self.title}, step {taken:,} of {self.steps_per_epoch:,}: {text}", flush=True)
            self.told = time.perf_counter()

    def end_epoch(self, step: int) -> None:
        """Remove the bar, when the device has finished all steps."""
        self.images_per_second = self._measured(step)
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Measure the duration of the block."""
        began = time.perf_counter()
        yield
        self.measuring = min(self.measuring, time.perf_counter() - began)

    def first_step_done(self, step: int) -> None:
        """Measure speed from `step` on."""
        self.compiled = True
        self.mark = (step, time.perf_counter())

    def _measured(self, step: int) -> float:
        since, began = self.mark
        passed = time.perf_counter() - began
        return (step - since) * self.batch_size / passed if self.compiled else 0.0

    @property
    def seconds(self) -> float:
        """Duration of the whole run, without the time between its processes."""
        return self.before + time.perf_counter() - self.began

    def seconds_left(self, step: int) -> float:
        """Estimated time left, at the speed of this epoch's steps and the shortest evaluation."""
        rest = self.steps_per_epoch * self.epochs - step
        evaluations = -(-rest // self.steps_per_epoch)
        measuring = evaluations * self.measuring if math.isfinite(self.measuring) else 0.0
        speed = self.images_per_second
        return rest * self.batch_size / speed + measuring if speed else 0.0


def sentence(row: dict[str, Any], epochs: int, left: float) -> str:
    """A line of metrics as readable text."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f}, "
        f"top-1 {row['train_top1']:.1f}%; held-out loss {row['held_out_loss']:.3f}, "
        f"top-1 {row['held_out_top1']:.2f}%; {row['images_per_second']:,.0f} images/s, "
        f"{duration(left)} left"
    )


def duration(seconds: float) -> str:
    """A duration as `1:02:03`, `2:03` or `3 s`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
