"""What a run shows: a bar in a terminal, a line an epoch in any case."""

import io
import sys
import time

import pytest

from train.run.progress import Progress, duration, sentence


class Clock:
    seconds = 100.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still until it is set."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.seconds)
    return clock


def progress(*, start: int = 0, show: bool = True) -> Progress:
    return Progress(10, 3, batch_size=64, start=start, before=0.0, show=show)


def test_the_bar_has_loss_accuracy_speed_and_time_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = progress()
    shown.first_step_done(1)
    clock.seconds += 60  # evaluation and saving are no steps
    shown.begin_epoch(1, 10)
    clock.seconds += 1
    shown.advance(15, 1.234, 56.78)
    assert shown.bar is not None
    assert shown.bar.n == 5
    text = str(shown.bar)
    shown.end_epoch(20)
    assert "epoch 2/3" in text
    # Five steps of 64 images in a second; fifteen more to go.
    assert "loss 1.234, top-1 56.8%, 320 images/s, 3 s left" in text


@pytest.mark.parametrize("show", [True, False])
def test_without_a_terminal_or_in_another_process_there_is_no_bar(
    show: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO() if show else Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = progress(show=show)
    shown.begin_epoch(0, 0)
    shown.advance(3, 1.0, 50.0)
    shown.end_epoch(10)
    assert stream.getvalue() == ""


def test_what_was_done_before_and_what_compiles_are_no_measure_of_speed(clock: Clock) -> None:
    resumed = progress(start=20)
    resumed.begin_epoch(2, 20)
    clock.seconds += 30
    resumed.advance(21, 1.0, 50.0)
    assert resumed.images_per_second == 0  # one step, which compiled
    resumed.first_step_done(21)
    clock.seconds += 2
    resumed.advance(25, 1.0, 50.0)
    assert resumed.images_per_second == 4 * 64 / 2
    assert resumed.seconds_left(25) == 5 * 64 / 128
    assert resumed.seconds == 32


def test_the_time_left_has_the_evaluations_that_are_to_come(clock: Clock) -> None:
    shown = progress()
    shown.begin_epoch(0, 0)
    shown.first_step_done(1)
    clock.seconds += 3
    shown.end_epoch(10)
    for seconds in (20, 4):  # the first one compiles
        with shown.evaluation():
            clock.seconds += seconds
    assert shown.images_per_second == 9 * 64 / 3
    assert shown.seconds_left(10) == 20 / 3 + 2 * 4
    assert shown.seconds_left(11) == 19 / 3 + 2 * 4


def test_a_file_gets_a_line_a_minute(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shown = progress()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown.begin_epoch(0, 0)
    shown.first_step_done(1)
    for step in range(2, 9):
        clock.seconds += 20
        shown.advance(step, 1.0, 50.0)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "epoch 1/3, step 5 of 10: loss 1.000, top-1 50.0%, 3 images/s, 8:20 left",
    ]


def test_a_line_of_metrics_reads_well() -> None:
    row = {
        "epoch": 2,
        "train_loss": 0.5,
        "train_top1": 80.0,
        "held_out_loss": 0.25,
        "held_out_top1": 91.234,
        "images_per_second": 1234.5,
    }
    assert sentence(row, 3, 75) == (
        "epoch 2/3: loss 0.500, top-1 80.0%; held-out loss 0.250, top-1 91.23%; 1,234 images/s, "
        "1:15 left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1:00"), (3599, "59:59"), (3725, "1:02:05")],
)
def test_a_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_at_the_end_of_an_epoch_the_bar_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = progress()
    shown.begin_epoch(1, 10)
    shown.advance(20, 1.0, 50.0)
    assert shown.bar is not None
    assert shown.bar.n == 10
    shown.end_epoch(20)
