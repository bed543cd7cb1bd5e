"""What whole runs of the tiny network write, and what settings do to them."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import flaxblocks as fb
import train.run.plan
from tests.train.runs import CONFIG, STEPS, in_, rows_of, same_end, steps_of
from tests.train.tiny import build_tiny
from train.data.source import Unreadable
from train.run import loop
from train.run.loop import run
from train.saving.checkpoints import Checkpoints
from train.settings.config import Config
from train.settings.flags import command_of, read_config_file

pytestmark = pytest.mark.usefixtures("tiny")


def test_a_run_writes_all_that_is_promised(alone: Path) -> None:
    names = {path.name for path in alone.iterdir()}
    assert names == {
        ".lock",
        "best.safetensors",
        "checkpoints",
        "classes.txt",
        "config.toml",
        "curves.png",
        "final.safetensors",
        "metrics.jsonl",
        "tensorboard",
    }
    assert (alone / "classes.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
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


class TinyTorch(torch.nn.Module):
    """`tests.train.tiny.Tiny` in PyTorch."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def test_pytorch_loads_the_end_strictly_and_gives_the_same_logits(alone: Path) -> None:
    state = {
        name: torch.from_numpy(a) for name, a in load_file(alone / "final.safetensors").items()
    }
    twin = TinyTorch(10).eval()
    twin.load_state_dict(state, strict=True)
    plan = train.run.plan.make_plan(in_(alone))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)

    model = plan.network.with_arrays()
    fb.load_torch(model, alone / "final.safetensors", layout="twin")
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


def test_unreadable_images_are_named_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from train.data.digits import DigitSource

    read, failed = DigitSource.__getitem__, []

    def damaged(self: DigitSource, index: int) -> Any:
        if (self.part, index) in (("train", 7), ("held_out", 9)):
            raise Unreadable("the scan is torn")
        if (self.part, index) == ("train", 20) and not failed:
            failed.append(index)
            raise Unreadable("stale file handle")
        return read(self, index)

    monkeypatch.setattr(DigitSource, "__getitem__", damaged)
    run(in_(tmp_path))
    told = capsys.readouterr().err
    assert told.count("digits/train/7 cannot be read: the scan is torn") == 1
    assert told.count("digits/held_out/9 cannot be read: the scan is torn") == 1
    assert told.count("digits/train/20 cannot be read: stale file handle") == 1
    assert rows_of(tmp_path)[-1]["unreadable"] == 3


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
        (("stom*",), r"^--freeze stom\* matches no parameter; there are, for example, .* head"),
        (("*",), r"^--freeze \* leaves no parameter to train$"),
    ],
)
def test_what_is_wrong_with_freeze_is_one_sentence(
    tmp_path: Path, freeze: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(in_(tmp_path, freeze=freeze))


def test_the_average_is_what_is_measured_and_exported(alone: Path) -> None:
    plan = train.run.plan.make_plan(in_(alone))
    checkpoints = Checkpoints(alone / "checkpoints", keep=2)
    state = checkpoints.restore(15, plan.abstract_state)
    checkpoints.close()
    written = load_file(alone / "final.safetensors")
    for params, buffers, same in (
        (state.average.params, state.average.buffers, True),
        (state.params, state.buffers, False),
    ):
        kernel = np.transpose(params["stem"]["conv"]["kernel"], (3, 2, 0, 1))
        assert np.array_equal(written["conv.weight"], kernel) == same
        assert np.array_equal(written["norm.running_mean"], buffers["stem"]["norm"]["mean"]) == same
        measured = plan.evaluate(params, state.frozen, buffers, unreadable=print)
        assert (measured["loss"] == rows_of(alone)[-1]["held_out_loss"]) == same


def test_the_learning_rate_of_a_row_is_that_of_its_last_step(tmp_path: Path) -> None:
    run(in_(tmp_path, warmup_epochs=0.0, schedule="exponential", schedule_every="epoch", gamma=0.5))
    rates = [row["learning_rate"] for row in rows_of(tmp_path)]
    assert rates == pytest.approx([0.01, 0.005, 0.0025])


def test_what_training_measured_is_of_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    means = loop._means

    def counted(sums: Any) -> Any:
        counts.append(int(sums.images))
        return means(sums)

    monkeypatch.setattr(loop, "_means", counted)
    run(in_(tmp_path))
    assert max(counts) == 5 * 256
    assert counts.count(5 * 256) >= 3
