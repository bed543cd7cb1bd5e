"""How whole runs of the tiny network are ended, and how they go on."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from safetensors.numpy import load_file

import train.run.plan
from tests.train.runs import copy_of, in_, interrupted_after, rows_of, same_end, steps_of
from train.data.digits import DigitSource
from train.data.source import Unreadable
from train.run import evaluation, loop, progress
from train.run.evaluation import Evaluator
from train.run.lock import alone_in
from train.run.loop import Diverged, run
from train.run.stop import Stopped

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("step", "number"), [(3, signal.SIGTERM), (7, signal.SIGINT), (9, signal.SIGTERM)]
)
def test_a_signal_saves_and_leaves_and_the_run_goes_on(
    alone: Path, tmp_path: Path, step: int, number: int, capsys: pytest.CaptureFixture
) -> None:
    with interrupted_after(step, number), pytest.raises(Stopped) as stopped:
        run(in_(tmp_path))
    # The step that was prepared is taken; the tenth ends an epoch, which is measured first.
    assert f"saved after step {step + 1} of 15; the same command resumes" in str(stopped.value)
    assert stopped.value.code == 128 + number
    assert step + 1 in steps_of(tmp_path)
    capsys.readouterr()
    run(in_(tmp_path))
    assert f"resuming {tmp_path} after step {step + 1} of 15" in capsys.readouterr().out
    assert same_end(tmp_path, alone)


def test_a_finished_run_is_finished(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "final.safetensors").unlink()
    run(in_(out))
    assert same_end(out, alone)


@pytest.mark.parametrize("damage", ["a flipped bit", "a file cut short", "notes", "gone"])
def test_a_damaged_checkpoint_is_left_out_for_the_one_before(
    alone: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    out = copy_of(alone, tmp_path)
    newest = out / "checkpoints" / "15"
    if damage == "notes":
        path = newest / "notes" / "metadata"
        path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.02'))
    elif damage == "gone":
        shutil.rmtree(newest / "state")
    else:
        flip_bits(newest)
        for path in (newest / "state").glob("**/d/*") if "short" in damage else ():
            path.write_bytes(path.read_bytes()[:-100])
    run(in_(out))
    told = capsys.readouterr()
    assert re.search(
        r"warning: checkpoint .*/15 is damaged and not used; it was moved to .*/damaged/15: ",
        told.err,
    )
    assert "after step 10 of 15" in told.out
    assert (out / "damaged" / "15").is_dir()
    assert same_end(out, alone)


def flip_bits(checkpoint: Path) -> None:
    for path in (checkpoint / "state").glob("**/d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_the_best_is_written_at_once_and_its_checkpoint_not_needed(
    alone: Path, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture
) -> None:
    """The last epoch, by chance the best, is made worse than the first."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.Evaluator, "__call__", worse_and_worse)
        run(in_(out))
    assert steps_of(out) == [5, 10, 15]
    best = (out / "best.safetensors").read_bytes()
    assert best != (alone / "best.safetensors").read_bytes()
    (out / "best.safetensors").unlink()
    shutil.copytree(out, tmp_path / "whole")
    run(in_(tmp_path / "whole"))  # what is gone comes from the checkpoint
    assert (tmp_path / "whole" / "best.safetensors").read_bytes() == best
    if harm == "gone":
        shutil.rmtree(out / "checkpoints" / "5")
    else:
        flip_bits(out / "checkpoints" / "5")
    run(in_(out))
    assert "warning: best.safetensors is missing, and its checkpoint" in capsys.readouterr().err
    assert (out / "final.safetensors").exists()


def worse_and_worse(self: Any, *_: Any, **__: Any) -> dict[str, float]:
    """In the place of an evaluation: 50% at first, then 49%."""
    self.calls = getattr(self, "calls", 0) + 1
    return {"loss": 1.0, "top1": 51.0 - self.calls, "top5": 60.0, "images": 360.0}


@contextmanager
def asked_while_measuring() -> Iterator[None]:
    real = evaluation.put_batch

    def put(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "put_batch", put)
        yield


def test_a_signal_while_it_measures_saves_and_the_epoch_is_measured_later(
    alone: Path, tmp_path: Path
) -> None:
    for epoch in (1, 2, 3):
        with asked_while_measuring(), pytest.raises(Stopped) as stopped:
            run(in_(tmp_path))
        assert f"saved after step {5 * epoch} of 15" in str(stopped.value)
        assert len(rows_of(tmp_path)) == epoch - 1
        assert (tmp_path / "curves.png").exists() == (epoch > 1)
        assert (tmp_path / "best.safetensors").exists() == (epoch > 1)
        if epoch < 3:
            with interrupted_after(0), pytest.raises(Stopped):
                run(in_(tmp_path))  # measures, and takes one step
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)


def test_a_step_that_does_not_fit_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")

    monkeypatch.setattr(loop, "put_batch", put)
    with pytest.raises(MemoryError, match=r"^--batch-size 256 does not fit; a smaller one takes"):
        run(in_(tmp_path))


def test_a_finished_run_without_its_metrics_stays_finished(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "metrics.jsonl").unlink()
    assert run(in_(out)) == {}
    assert (out / "final.safetensors").read_bytes() == (alone / "final.safetensors").read_bytes()


def test_another_config_is_refused_and_nothing_lost(alone: Path, tmp_path: Path) -> None:
    out = copy_of(alone, tmp_path)
    with pytest.raises(ValueError, match=r"^--out .*run holds a run with other settings") as error:
        run(in_(out, lr=0.02, epochs=4))
    assert "--epochs 4 (was 3), --lr 0.02 (was 0.01)" in str(error.value)
    assert "\n" not in str(error.value)
    assert steps_of(out) == [10, 15]
    assert rows_of(out) == rows_of(alone)
    run(in_(out, keep=1, save_every=2))  # what changes no number may change
    assert same_end(out, alone)


def test_other_data_is_refused(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(alone, tmp_path)
    monkeypatch.setattr("train.data.digits.DigitSource.__len__", lambda self: len(self.scans) - 1)
    with pytest.raises(ValueError, match=r"1,437 training and 360 held-out .* now has 1,436"):
        run(in_(out))


def test_other_data_of_as_many_images_is_refused(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(alone, tmp_path)
    monkeypatch.setattr("train.data.digits.DigitSource.identity", lambda self: "another")
    with pytest.raises(ValueError, match=r"a run on other images or classes than --data digits"):
        run(in_(out))
    assert steps_of(out) == [10, 15]


def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the eighth step on, in the second epoch, nothing is finite."""
    real = train.run.plan.learning_rate

    def broken(*args: Any) -> Any:
        rate = real(*args)
        return lambda step: rate(step) * (step < 6) + 1e38 * (step >= 6)

    monkeypatch.setattr(train.run.plan, "learning_rate", broken)
    with pytest.raises(
        Diverged, match=r"became infinite or NaN in step 8: .* of step 5 is kept; a lower"
    ):
        run(in_(tmp_path, save_every=4))
    assert steps_of(tmp_path) == [4, 5]
    assert [row["step"] for row in rows_of(tmp_path)] == [5]


def test_divergence_at_once_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="and nothing was saved; a lower --lr"):
        run(in_(tmp_path, lr=1e38, optimizer="sgd", ema=None, warmup_epochs=0.0))
    assert steps_of(tmp_path) == []


def test_running_statistics_that_overflow_are_divergence_too(tmp_path: Path) -> None:
    """In training mode nothing else depends on them."""
    with pytest.raises(Diverged, match="became infinite or NaN in step"):
        run(in_(tmp_path, lr=1e12, optimizer="sgd", ema=None, warmup_epochs=0.0, mixup=0.0))
    assert steps_of(tmp_path) == []


def test_a_disk_that_is_full_is_one_sentence_and_what_was_saved_stays(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted_after(3), pytest.raises(Stopped):
        run(in_(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
        with pytest.raises(OSError) as error:
            run(in_(tmp_path))
    assert re.fullmatch(
        r"the disk of .*/checkpoints is full: a checkpoint takes 1\.1 MB, and 1\.0 MB are free; "
        "intact checkpoints are kept",
        str(error.value),
    )
    assert steps_of(tmp_path) == [4]
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises((OSError, ValueError)) as error:
        run(in_(tmp_path / "file" / "run"))
    assert "file" in str(error.value)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        with pytest.raises(ValueError, match=r"run is in use by another run, process \d+: give"):
            run(in_(tmp_path / "run"))
        run(in_(tmp_path / "other", epochs=1))
    run(in_(tmp_path / "run", epochs=1))


def test_the_best_is_the_first_of_the_highest_top1_also_over_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Evaluator.__call__
    top1 = iter([50.0, 90.0, 90.0])

    def scripted(self: Evaluator, *args: Any, **rest: Any) -> dict[str, float]:
        return measured(self, *args, **rest) | {"top1": next(top1)}

    monkeypatch.setattr(Evaluator, "__call__", scripted)
    with interrupted_after(11), pytest.raises(Stopped):
        run(in_(tmp_path, keep=1))
    run(in_(tmp_path, keep=1))
    assert steps_of(tmp_path) == [10, 15]
    steps = [
        int(load_file(tmp_path / f"{name}.safetensors")["norm.num_batches_tracked"])
        for name in ("best", "final")
    ]
    assert steps == [10, 15]


def test_a_run_that_goes_on_remembers_time_and_what_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    read, clock = DigitSource.__getitem__, progress.time.perf_counter

    def damaged(self: DigitSource, index: int) -> Any:
        if (self.part, index) == ("held_out", 9):
            raise Unreadable("the scan is torn")
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: 1000 * clock()))
        patch.setattr(DigitSource, "__getitem__", damaged)
        with interrupted_after(7), pytest.raises(Stopped):
            run(in_(tmp_path))
    (before,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(before)["unreadable"] == 1
    run(in_(tmp_path))
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["unreadable"] == 1
    assert last["seconds"] > json.loads(before)["seconds"]


def test_a_line_of_metrics_that_was_cut_off_comes_again(alone: Path, tmp_path: Path) -> None:
    with interrupted_after(7), pytest.raises(Stopped):
        run(in_(tmp_path))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"step": 5}', '{"step": "5", "epoch": 1}'])
def test_a_damaged_line_of_metrics_is_named_and_left_out(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture, line: str
) -> None:
    out = copy_of(alone, tmp_path)
    file = out / "metrics.jsonl"
    first, *rest = file.read_text().splitlines()
    file.write_bytes("\n".join([first, line, *rest, ""]).encode() + b"\xff\n")
    run(in_(out))
    assert same_end(out, alone)
    told = [text for text in capsys.readouterr().err.splitlines() if "metrics" in text]
    assert told[0] == f"train: warning: {file}, line 2 is damaged and ignored: {line!r}"
    assert len(told) == 2
    assert (out / "curves.png").stat().st_size


def test_of_a_checkpoint_damaged_twice_both_are_kept(alone: Path, tmp_path: Path) -> None:
    out = copy_of(alone, tmp_path)
    for _ in range(2):
        (out / "checkpoints" / "15" / "notes" / "metadata").write_text("{}")
        run(in_(out))
    assert sorted(path.name for path in (out / "damaged").iterdir()) == ["15", "15.2"]
    assert same_end(out, alone)
