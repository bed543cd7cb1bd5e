"""`fb.preprocess`: an image as the weights of a model want it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flaxblocks as fb
from flaxblocks.create.origin import origin_of
from flaxblocks.weights import find_weights
from flaxblocks.weights.preprocess import Transforms
from flaxblocks.weights.preprocess import preprocess as by_settings
from tests.cli.conftest import TINY

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == (1, *b.shape) and a.dtype == b.dtype and np.array_equal(a[0], b)


@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "IMAGENET1K_V2", "mobilenetv2_100.ra_in1k"])
def test_published_weights_bring_their_settings(tag, tmp_path, monkeypatch):
    state = fb.to_torch(fb.create_model("mobilenet_v2", **TINY))
    fb.write_checkpoint(state, tmp_path / "in.pth")
    monkeypatch.setattr(
        "flaxblocks.weights.fetch.fetch_weights", lambda entry, progress: tmp_path / "in.pth"
    )
    entry = find_weights("mobilenet_v2", tag)
    model = fb.create_model("mobilenet_v2", weights=tag, **TINY)
    features = fb.create_model("mobilenet_v2", weights=tag, features_only=True, **TINY)
    for one in (model, features):
        assert origin_of(one).weights == entry
        x = fb.preprocess(Image.fromarray(PIXELS), one)
        assert same(x, by_settings(Image.fromarray(PIXELS), entry.transforms))
    fb.load_torch(model, state)
    assert origin_of(model).weights is None  # they are the file's now


@pytest.mark.parametrize(
    ("layout", "name"), [("torchvision", "mobilenet_v2"), ("timm", "mobilenetv2_100")]
)
def test_a_file_has_the_settings_of_its_layouts_library(layout, name, tmp_path):
    state = fb.to_torch(fb.create_model("mobilenet_v2", **TINY), layout)
    model = fb.create_model("mobilenet_v2", weights=state, **TINY)
    settings = find_weights(name, "DEFAULT").transforms
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (PIXELS, Image.fromarray(PIXELS), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert same(fb.preprocess(image, model), by_settings(Image.fromarray(PIXELS), settings))
    grey = fb.preprocess(PIXELS[..., 0], model, np.float16)
    assert same(grey, by_settings(Image.fromarray(PIXELS[..., 0]), settings, np.float16))


def test_a_lone_block_has_the_usual_settings():
    block = fb.nn.BatchNorm(3)
    assert same(fb.preprocess(PIXELS, block), by_settings(Image.fromarray(PIXELS), Transforms()))


def test_a_mistake_is_one_sentence():
    model = fb.create_model("mobilenet_v2", **TINY)
    grey = fb.create_model("mobilenet_v2", in_channels=1, **TINY)
    wrong = {
        ("missing.jpg", model): r"^image 'missing.jpg' cannot be read: No such file",
        (model, "photo.jpg"): r"^`image` \(a MobileNetV2\) must be an image: the model comes after",
        (None, model): r"^`image` \(='NoneType'\) must be",
        ("a.jpg", "mobilenet_v2"): r"^`model` \(a str\) must be a module of Flax NNX",
        ("a.jpg", grey): r"^`model` \(in_channels=1\) must be a model for RGB images",
    }
    for arguments, sentence in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            fb.preprocess(*arguments)
    for pixels in (PIXELS / 255, PIXELS[None], PIXELS[..., :2]):
        with pytest.raises(
            ValueError, match=r"must be \(H, W, 3\) or \(H, W\), pixels from 0 to 255"
        ):
            fb.preprocess(pixels, model)


def test_the_old_module_of_that_name_does_not_hide_it():
    script = (
        "import flaxblocks as fb, flaxblocks.preprocess\n"
        "from flaxblocks.preprocess import preprocess, Transforms\n"
        "import numpy as np\n"
        "x = np.zeros((9, 9, 3), np.uint8)\n"
        "print(fb.preprocess(x, fb.nn.BatchNorm(3)).shape, preprocess.__module__)\n"
        "import flaxblocks.doctor\n"
        "try: flaxblocks.doctor()\n"
        "except TypeError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
    shape, error = ran.stdout.splitlines()
    assert shape == "(1, 224, 224, 3) flaxblocks.weights.preprocess"
    assert error == "module 'flaxblocks.doctor' is not callable"
