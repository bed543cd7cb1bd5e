"""What a run shows while it runs: a bar where someone looks, one line an epoch in any case."""

import time
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "sentence"]


class Progress:
    """How far, how fast, how long yet. Only the main process shows it."""

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
        """Begin at step `start`, after `before` seconds of earlier processes."""
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.batch_size = batch_size
        self.start = start
        self.before = before
        self.show = show
        self.began = time.perf_counter()
        self.compiled = False  # until the first step is over, which is no measure of speed
        self.mark = (start, self.began)  # the step and the time since which speed is measured
        self.bar: tqdm | None = None

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Open the bar of `epoch`, counted from 0, with `step` steps taken in all."""
        self.mark = (step, time.perf_counter())
        self.bar = tqdm(
            total=self.steps_per_epoch,
            initial=step - epoch * self.steps_per_epoch,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            disable=None if self.show else True,
        )

    def advance(self, step: int, loss: float, top1: float) -> None:
        """Show where the run is after `step` steps."""
        bar = self.bar
        if bar is None or bar.disable:
            return
        images = self.images_per_second(step)
        left = (self.steps_per_epoch * self.epochs - step) * self.batch_size
        bar.set_postfix_str(
            f"loss {loss:.3f}, top-1 {top1:.1f}%"
            + (f", {images:,.0f} images/s, {duration(left / images)} left" if images else ""),
            refresh=False,
        )
        bar.update((step - 1) % self.steps_per_epoch + 1 - bar.n)

    def end_epoch(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def first_step_done(self, step: int) -> None:
        """From `step` on speed is measured."""
        self.compiled = True
        self.mark = (step, time.perf_counter())

    def images_per_second(self, step: int) -> float:
        """Of this epoch's steps, without evaluation and what compiles; 0 before there is a
        measure.
        """
        since, began = self.mark
        passed = time.perf_counter() - began
        return (step - since) * self.batch_size / passed if self.compiled else 0.0

    @property
    def seconds(self) -> float:
        """Of the whole run, without the time between its processes."""
        return self.before + time.perf_counter() - self.began

    def seconds_left(self, step: int) -> float:
        """If the rest goes as what this process has done."""
        rest = self.steps_per_epoch * self.epochs - step
        return rest * (time.perf_counter() - self.began) / max(step - self.start, 1)


def sentence(row: dict[str, Any], epochs: int, left: float) -> str:
    """One line of metrics for a person."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f}, "
        f"top-1 {row['train_top1']:.1f}%; held-out loss {row['held_out_loss']:.3f}, "
        f"top-1 {row['held_out_top1']:.2f}%; {row['images_per_second']:,.0f} images/s, "
        f"{duration(left)} left"
    )


def duration(seconds: float) -> str:
    """`1:02:03`, `2:03` or `3 s`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
