"""Whole runs of a tiny network: what they write, how they go on, and what ends them."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import flaxblocks as fb
import train.plan
from tests.train.tiny import TinyTorch, build_tiny
from train import loop as train_loop
from train.config import Config
from train.data.source import Unreadable
from train.flags import command_of, read_config_file
from train.lock import alone_in
from train.loop import Diverged, run
from train.stop import Stopped

CONFIG = Config(
    image_size=32, epochs=3, batch_size=256, lr=0.01, warmup_epochs=0.5, ema=0.5, mixup=0.2
)
STEPS = 5  # of an epoch: 1,437 digits
TIMES = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.plan, "build_model", build_tiny)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.plan, "build_model", build_tiny)
        run(replace(CONFIG, out=str(out)))
    return out


def in_(out: Path, **settings: Any) -> Config:
    return replace(CONFIG, out=str(out), **settings)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The metrics, but for what a clock measured."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same_end(out: Path, other: Path) -> bool:
    files = ("final.safetensors", "best.safetensors")
    return rows_of(out) == rows_of(other) and all(
        (out / name).read_bytes() == (other / name).read_bytes() for name in files
    )


def steps_of(out: Path) -> list[int]:
    return sorted(int(path.name) for path in (out / "checkpoints").iterdir())


@contextmanager
def interrupted_after(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send this process a signal while it prepares the batch after `step`."""
    original, count = train_loop.put_batch, 0

    def put(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == step + 1:
            os.kill(os.getpid(), number)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_loop, "put_batch", put)
        yield


def test_a_run_writes_all_that_is_promised(alone: Path) -> None:
    names = {path.name for path in alone.iterdir()}
    assert names == {
        ".lock",
        "best.safetensors",
        "checkpoints",
        "config.toml",
        "curves.png",
        "final.safetensors",
        "metrics.jsonl",
        "tensorboard",
    }
    rows = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 5), (2, 10), (3, 15)]
    assert rows[-1]["held_out_top1"] > rows[0]["held_out_top1"]
    assert 0 < rows[-1]["held_out_top1"] <= rows[-1]["held_out_top5"] <= 100
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] < 2.5
    assert rows[0]["learning_rate"] > rows[-1]["learning_rate"] > 0
    assert all(row["images_per_second"] > 0 for row in rows)
    with Image.open(alone / "curves.png") as picture:
        assert picture.width > 1000
    assert steps_of(alone) == [10, 15]


def test_tensorboard_has_the_curves(alone: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]

    (file,) = (alone / "tensorboard").iterdir()
    data, at, values = file.read_bytes(), 0, {}
    while at < len(data):  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
        for value in event.summary.value:
            values[value.tag, event.step] = value.simple_value
    for row in rows_of(alone):
        for name in ("train_loss", "held_out_top1", "learning_rate"):
            assert values[name, row["step"]] == pytest.approx(row[name], rel=1e-6)


def test_pytorch_loads_the_end_strictly_and_gives_the_same_logits(alone: Path) -> None:
    state = {
        name: torch.from_numpy(a) for name, a in load_file(alone / "final.safetensors").items()
    }
    twin = TinyTorch(10).eval()
    twin.load_state_dict(state, strict=True)
    plan = train.plan.make_plan(in_(alone))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)

    model = plan.network.with_arrays()
    fb.load_torch(model, alone / "final.safetensors", dialect="twin")
    with torch.no_grad():
        theirs = twin(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(model(jnp.asarray(x)), theirs, rtol=1e-5, atol=1e-6)
    # The average counts batches as the model does.
    assert int(state["norm.num_batches_tracked"]) == 3 * STEPS


def test_the_written_config_is_the_run(alone: Path) -> None:
    seen: list[Config] = []
    command = command_of(seen.append, help="")
    command.main(["--config", str(alone / "config.toml")], standalone_mode=False)
    (config,) = seen
    given = in_(alone)
    assert config.num_classes == 10  # what was left open is written as it was filled in
    assert all(
        getattr(config, name) == value for name, value in vars(given).items() if value is not None
    )
    assert "lr" in read_config_file(alone / "config.toml")


def test_a_run_repeats_itself(alone: Path, tmp_path: Path) -> None:
    run(in_(tmp_path))
    assert same_end(tmp_path, alone)
    run(in_(tmp_path / "other", seed=1))
    assert rows_of(tmp_path / "other") != rows_of(alone)


@pytest.mark.parametrize(
    ("step", "number"), [(3, signal.SIGTERM), (7, signal.SIGINT), (9, signal.SIGTERM)]
)
def test_a_signal_saves_and_leaves_and_the_run_goes_on(
    alone: Path, tmp_path: Path, step: int, number: int, capsys: pytest.CaptureFixture
) -> None:
    with interrupted_after(step, number), pytest.raises(Stopped) as stopped:
        run(in_(tmp_path))
    # The step that was prepared is taken; the tenth ends an epoch, which is measured first.
    assert f"saved after step {step + 1} of 15; the same command goes on" in str(stopped.value)
    assert stopped.value.code == 128 + number
    assert step + 1 in steps_of(tmp_path)
    capsys.readouterr()
    run(in_(tmp_path))
    assert f"going on in {tmp_path} after step {step + 1} of 15" in capsys.readouterr().out
    assert same_end(tmp_path, alone)


def test_a_finished_run_is_finished(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "final.safetensors").unlink()
    run(in_(out))
    assert same_end(out, alone)


def copy_of(alone: Path, tmp_path: Path) -> Path:
    """As if the run had died before its end."""
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    (out / "final.safetensors").unlink()
    return out


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
        for path in (newest / "state").glob("**/d/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data[: len(data) // 2] if "short" in damage else data)
    run(in_(out))
    told = capsys.readouterr()
    assert re.search(r"warning: checkpoint .*/15 is damaged and left out: ", told.err)
    assert "after step 10 of 15" in told.out
    assert (out / "damaged" / "15").is_dir()
    assert same_end(out, alone)


def test_of_only_damaged_checkpoints_the_run_begins_anew(alone: Path, tmp_path: Path) -> None:
    out = copy_of(alone, tmp_path)
    for step in (10, 15):
        shutil.rmtree(out / "checkpoints" / str(step) / "state")
    run(in_(out))
    assert sorted(path.name for path in (out / "damaged").iterdir()) == ["10", "15"]
    assert same_end(out, alone)


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


def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the eighth step on, in the second epoch, nothing is finite."""
    real = train.plan.learning_rate

    def broken(*args: Any) -> Any:
        rate = real(*args)
        return lambda step: rate(step) * (step < 6) + 1e38 * (step >= 6)

    monkeypatch.setattr(train.plan, "learning_rate", broken)
    with pytest.raises(Diverged, match=r"no finite number in step 8: .* of step 5 stays; a lower"):
        run(in_(tmp_path, save_every=4))
    assert steps_of(tmp_path) == [4, 5]
    assert [row["step"] for row in rows_of(tmp_path)] == [5]


def test_divergence_at_once_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="and nothing was saved; a lower --lr"):
        run(in_(tmp_path, lr=1e38, optimizer="sgd", ema=None, warmup_epochs=0.0))
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
        "the checkpoints that are whole stay",
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


def test_unreadable_images_are_named_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from train.data.digits import DigitSource

    read = DigitSource.__getitem__

    def damaged(self: DigitSource, index: int) -> Any:
        if (self.part, index) in (("train", 7), ("held_out", 9)):
            raise Unreadable("the scan is torn")
        return read(self, index)

    monkeypatch.setattr(DigitSource, "__getitem__", damaged)
    run(in_(tmp_path))
    told = capsys.readouterr().err
    assert told.count("digits/train/7 cannot be read: the scan is torn") == 1
    assert told.count("digits/held_out/9 cannot be read: the scan is torn") == 1
    assert rows_of(tmp_path)[-1]["unreadable"] == 2


def test_bfloat16_keeps_parameters_in_float32_and_learns(tmp_path: Path, alone: Path) -> None:
    run(in_(tmp_path, dtype="bfloat16"))
    state = load_file(tmp_path / "final.safetensors")
    assert {str(a.dtype) for a in state.values()} == {"float32", "int64"}
    ours, wide = rows_of(tmp_path)[-1], rows_of(alone)[-1]
    assert ours != wide
    assert ours["train_loss"] == pytest.approx(wide["train_loss"], rel=0.02)


def test_frozen_layers_stay(tmp_path: Path) -> None:
    run(in_(tmp_path, freeze=("backbone",), epochs=1))
    start: Any = build_tiny(CONFIG, 10)
    state = load_file(tmp_path / "final.safetensors")
    np.testing.assert_array_equal(state["norm.running_mean"], start.stem.norm.mean[...])
    np.testing.assert_array_equal(
        state["conv.weight"], np.transpose(start.stem.conv.kernel[...], (3, 2, 0, 1))
    )
    assert np.abs(state["head.weight"] - np.asarray(start.head.kernel[...]).T).max() > 1e-3


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("stom*",), r"^--freeze stom\* matches no parameter; they are called as in .* head"),
        (("*",), r"^--freeze \* leaves no parameter to train$"),
    ],
)
def test_what_is_wrong_with_freeze_is_one_sentence(
    tmp_path: Path, freeze: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(in_(tmp_path, freeze=freeze))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        with pytest.raises(ValueError, match=r"run is in use by another run, process \d+: give"):
            run(in_(tmp_path / "run"))
        run(in_(tmp_path / "other", epochs=1))
    run(in_(tmp_path / "run", epochs=1))
