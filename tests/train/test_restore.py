"""What keeps a run from going on: damage that is known is put aside, and all else ends the run and
changes nothing. No run begins anew over another.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optax
import pytest

import train.run.plan
from tests.train.runs import contents, copy_of, in_, interrupted_after, same_end, steps_of
from train.__main__ import main
from train.run import loop
from train.run.loop import run
from train.run.stop import Stopped
from train.saving.damage import ListedArrays

pytestmark = pytest.mark.usefixtures("tiny")

STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
SETTINGS = (
    *("--image-size=32", "--epochs=3", "--batch-size=256", "--lr=0.01", "--warmup-epochs=0.5"),
    *("--ema=0.5", "--mixup=0.2"),
)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def stale_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk that lists its files and cannot read them."""
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if folder in path.parents:
            raise STALE
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


@pytest.mark.parametrize("part", ["the arrays", "the notes", "the folder"])
def test_a_disk_that_fails_is_one_sentence_and_no_damage(
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    part: str,
) -> None:
    out = copy_of(alone, tmp_path)
    before = contents(out)
    checkpoints, listdir = out / "checkpoints", os.listdir
    with monkeypatch.context() as patch:
        if part == "the arrays":
            patch.setattr(ListedArrays, "restore", raising(STALE))
        elif part == "the notes":
            stale_below(checkpoints, patch)
        else:
            patch.setattr(
                os, "listdir", lambda at: raising(STALE)() if at == checkpoints else listdir(at)
            )
        with pytest.raises(SystemExit) as left:
            main([*SETTINGS, "--out", str(out)])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    place = f"the checkpoints in {checkpoints}" if "folder" in part else f"{checkpoints}/15"
    for told in ("train: ", place, "Stale file handle", "no damage was found", "the same command"):
        assert told in line
    assert contents(out) == before
    run(in_(out))
    assert same_end(out, alone)


def test_a_program_that_changed_is_one_sentence_and_no_damage(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its optimiser has one array more."""
    out = copy_of(alone, tmp_path)
    before = contents(out)
    make = train.run.plan.make_optimiser
    monkeypatch.setattr(
        train.run.plan, "make_optimiser", lambda *a: optax.chain(make(*a), optax.zero_nans())
    )
    with pytest.raises(
        ValueError, match=r"^checkpoint .*/15 holds a state that differs from this program's"
    ):
        run(in_(out))
    assert contents(out) == before


def test_the_best_that_cannot_be_read_ends_the_run_after_its_end_was_written(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(alone, tmp_path)
    (out / "best.safetensors").unlink()
    before = contents(out / "checkpoints")
    restore = ListedArrays.restore
    calls = iter([restore])
    with monkeypatch.context() as patch:
        patch.setattr(
            ListedArrays,
            "restore",
            lambda *a, **k: next(calls, raising(STALE))(*a, **k),
        )
        with pytest.raises(ValueError, match=r"cannot be read: Stale file handle"):
            run(in_(out))
    assert (out / "final.safetensors").exists()
    assert contents(out / "checkpoints") == before
    run(in_(out))
    assert same_end(out, alone)


def test_of_only_damaged_checkpoints_nothing_is_changed(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    for step in (10, 15):
        shutil.rmtree(out / "checkpoints" / str(step) / "state")
    before = contents(out)
    for _ in range(2):
        with pytest.raises(
            ValueError,
            match=r"^none of the checkpoints in .*/run/checkpoints is intact \(15: .*\): give this "
            r"run another --out, or move .*/run away$",
        ):
            run(in_(out))
    assert contents(out) == before


def test_a_damaged_checkpoint_stays_while_the_one_before_cannot_be_read(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(alone, tmp_path)
    (out / "checkpoints" / "15" / "notes" / "metadata").write_text("{}")
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(ListedArrays, "restore", raising(STALE))
        with pytest.raises(ValueError, match=r"^checkpoint .*/10 cannot be read: Stale"):
            run(in_(out))
    assert contents(out) == before
    run(in_(out))
    assert same_end(out, alone)


@pytest.mark.parametrize(
    "left", ["final.safetensors", "best.safetensors", "metrics.jsonl", "damaged"]
)
def test_no_run_begins_anew_over_another(alone: Path, tmp_path: Path, left: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "checkpoints").rename(out / "damaged")
    for name in ("final.safetensors", "best.safetensors", "metrics.jsonl"):
        if name != left:
            (out / name).unlink()
    if left != "damaged":
        shutil.rmtree(out / "damaged")
    before = contents(out)
    with pytest.raises(
        ValueError,
        match=rf"^--out .*/run holds {left} of a run but no checkpoint to resume from: give this "
        r"run another --out, or move that folder away$",
    ):
        run(in_(out))
    assert contents(out) == before


def test_what_a_run_writes_is_never_without_a_checkpoint(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that dies just after its first epoch could not go on, nor begin anew."""

    class Died(Exception):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_write", raising(Died()))
        with pytest.raises(Died):
            run(in_(tmp_path))
    assert steps_of(tmp_path) == [5]
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)


def test_a_run_that_left_nothing_begins_anew(alone: Path, tmp_path: Path) -> None:
    """It was stopped before its first checkpoint, and what it wrote is empty."""
    with interrupted_after(0), pytest.raises(Stopped):
        run(in_(tmp_path))
    shutil.rmtree(tmp_path / "checkpoints")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)
