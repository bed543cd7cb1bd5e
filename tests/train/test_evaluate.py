"""`python -m train.evaluate`: PyTorch's accuracy, of any weights on any data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flaxblocks as fb
from flaxblocks.demo import digits
from train import evaluate
from train.data.open import open_data
from train.settings.config import Config

BUNDLED = Config(weights=str(digits.checkpoint_path()), width_mult="0.25", image_size=32)


def write_digits(folder: Path, count: int) -> None:
    """The demo's first digits as PNG files by class, as large as the network takes them."""
    demo = digits.load_digits()
    source = open_data(Config()).held_out
    for i in range(count):
        for part in ("train", "val"):
            target = folder / part / str(demo.labels[i])
            target.mkdir(parents=True, exist_ok=True)
            source[i][0].save(target / f"{i}.png")


@pytest.fixture(scope="module")
def result() -> dict:
    return evaluate.evaluate(BUNDLED)


def test_the_bundled_digits_get_pytorchs_accuracy(result: dict) -> None:
    demo = digits.load_digits()
    right = demo.logits.argmax(1) == demo.labels
    assert result["top1"] == pytest.approx(100 * right.mean())
    five = np.argsort(-demo.logits, axis=1)[:, :5]
    assert result["top5"] == pytest.approx(100 * (five == demo.labels[:, None]).any(1).mean())
    shifted = demo.logits - demo.logits.max(1, keepdims=True)
    log_likelihood = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_likelihood[np.arange(360), demo.labels].mean()
    # Pixels are rounded to 255 steps on their way.
    assert result["loss"] == pytest.approx(loss, rel=0.01)
    assert result["images"] == 360
    assert result["unreadable"] == []


def test_the_command_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture, result: dict
) -> None:
    write_digits(tmp_path, 60)
    (tmp_path / "val" / "3" / "torn.png").write_bytes(b"torn")
    with pytest.raises(SystemExit) as exit:
        evaluate.main(
            [
                *("--data", str(tmp_path), "--width-mult", "0.25"),
                *("--weights", str(digits.checkpoint_path()), "--image-size", "32"),
            ]
        )
    assert exit.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 60
    assert [Path(name).name for name in printed["unreadable"]] == ["torn.png"]
    # ImageNet's mean and deviation are not the digits', and still most are right.
    assert 50 < printed["top1"] <= printed["top5"] <= 100
    assert set(printed) == set(result)


def test_with_a_runs_config_it_measures_as_the_run_did(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of data without `val`: the same images, prepared alike, though no share of them was given."""
    from train.__main__ import main

    source = open_data(Config()).held_out
    for i in range(80):
        image, label = source[i]
        (tmp_path / "data" / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "data" / str(label) / f"{i}.png")
    out = tmp_path / "run"
    train_on = ["--data", str(tmp_path / "data"), "--width-mult", "0.25", "--image-size", "32"]
    rows = [[1, 16, 1, 1], [6, 24, 1, 2], [6, 32, 1, 2]]
    train_on += ["--set", f"inverted_residual_setting={rows}"]
    options: dict = {"width_mult": 0.25, "inverted_residual_setting": rows, "num_classes": 10}
    fb.write_checkpoint(fb.to_torch(fb.create_model("mobilenet_v2", **options)), tmp_path / "a.pth")
    with pytest.raises(SystemExit) as exit:
        main(
            [
                *(*train_on, "--weights", str(tmp_path / "a.pth"), "--epochs", "1"),
                *("--interpolation", "nearest", "--mean", "0.5,0.5,0.5", "--seed", "1"),
                *("--out", str(out)),
            ]
        )
    assert exit.value.code == 0
    row = json.loads((out / "metrics.jsonl").read_text())
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        evaluate.main(
            ["--config", str(out / "config.toml"), "--weights", str(out / "final.safetensors")]
        )
    assert exit.value.code == 0
    told = capsys.readouterr()
    measured = json.loads(told.out)
    assert measured["images"] == 10  # the share that nobody asked for
    assert measured["loss"] == pytest.approx(row["held_out_loss"], rel=1e-6)
    assert "no `val`" not in told.err
    with pytest.raises(SystemExit):
        evaluate.main([*train_on, "--weights", str(out / "final.safetensors")])
    told = capsys.readouterr()
    assert json.loads(told.out)["images"] == 80
    assert "has no `val`, so all its images are measured" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evaluate: --weights must name what to evaluate: a file or published weights"),
        (
            ["--weights", str(digits.checkpoint_path()), "--model", "resnet18"],
            "belongs to ResNet",
        ),
        (["--epochs", "3"], "evaluate: No such option '--epochs'"),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        evaluate.main(arguments)
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_weights_of_other_classes_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / part / name / "0.png")
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"\.pth has 10 classes and .* has 3$"):
        evaluate.evaluate(replace(BUNDLED, data=str(tmp_path)))
