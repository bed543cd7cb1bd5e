"""From PyTorch and back: a checkpoint of its is fine-tuned here, and torch evaluates the result."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.demo import digits
from flaxblocks.parity import FLOAT32_FACTOR, relative_error
from flaxblocks.parity.oracle import import_torchvision
from train.data.open import open_data
from train.data.pipeline import held_out_batches
from train.evaluate import evaluate
from train.network.build import transforms_for
from train.run.loop import run
from train.settings.config import Config

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config(
        weights=str(digits.checkpoint_path()),
        width_mult="0.25",
        epochs=1,
        batch_size=128,
        lr=1e-3,
        warmup_epochs=0.0,
        image_size=32,
        out=str(tmp_path_factory.mktemp("finetuned")),
    )


@pytest.fixture(scope="module")
def metrics(config: Config) -> dict:
    return run(config)


def readme_model(path: Path) -> torch.nn.Module:
    """What the README's lines for PyTorch make of a file."""
    (lines,) = re.findall(r"```py\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert lines.count("runs/digits/final.safetensors") == 1
    namespace: dict = {}
    import_torchvision()
    exec(lines.replace("runs/digits/final.safetensors", str(path)), namespace)
    return namespace["model"].eval()


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Normalised images, in float64, and labels."""
    data = open_data(Config())
    transforms = transforms_for(Config(image_size=32), data)
    (batch,) = held_out_batches(data.held_out, transforms, batch_size=360)
    images = batch["image"].astype(np.float64) / 255
    return (images - transforms.mean) / transforms.std, batch["label"]


def test_torch_gives_the_same_accuracy_and_logits(config: Config, metrics: dict) -> None:
    """Loaded strictly into torchvision's own model."""
    path = Path(config.out) / "final.safetensors"
    model = readme_model(path)
    original = torch.load(digits.checkpoint_path(), weights_only=True)
    state = model.state_dict()
    assert list(fb.read_checkpoint(path)) == list(original)
    changed = [key for key in state if not torch.equal(state[key], original[key])]
    assert changed == list(state)

    x, labels = held_out()
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = model(channels_first.float()).numpy()
        truth = model.double()(channels_first).numpy()
    ours = fb.create_model("mobilenet_v2", weights=path, width_mult=0.25)
    ours.eval()
    logits = np.asarray(fb.compile_inference(ours)(jnp.asarray(x, jnp.float32)))
    assert relative_error(logits, truth) <= FLOAT32_FACTOR * relative_error(theirs, truth)
    with jax.enable_x64(True):
        wide = fb.create_model(
            "mobilenet_v2", weights=path, width_mult=0.25, param_dtype=jnp.float64
        )
        logits64 = np.asarray(fb.compile_inference(wide)(jnp.asarray(x)))
    assert relative_error(logits64, truth) <= 1e-12
    accuracy = 100 * float((theirs.argmax(1) == labels).mean())
    assert metrics["held_out_top1"] == pytest.approx(accuracy)
    assert accuracy >= 98
    again = evaluate(Config(weights=str(path), width_mult="0.25", image_size=32))
    assert again["top1"] == pytest.approx(accuracy)
