"""`flaxblocks predict`: right answers for right files, one sentence for wrong ones."""

import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import flaxblocks as fb
from flaxblocks.cli import classify as predict_module
from flaxblocks.cli.class_names import ClassNames, class_names
from flaxblocks.weights import find_weights, list_weights
from flaxblocks.weights.preprocess import Transforms, preprocess_batch
from tests.cli.conftest import SMALL, TINY, Refuse, Run

State = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks see 32 pixels, not 224: the answers are compared with those for the same."""

    def small(images, transforms: Transforms) -> np.ndarray:
        return np.ascontiguousarray(preprocess_batch(images, transforms)[:, 96:128, 96:128])

    monkeypatch.setattr(predict_module, "preprocess_batch", small)


@pytest.fixture
def images(here: Path) -> list[Path]:
    """Three photographs of noise, in three modes."""
    draw = np.random.default_rng(0)
    for name, mode in {"a.png": "RGB", "b.jpg": "L", "c.png": "RGBA"}.items():
        pixels = draw.integers(0, 256, (40, 60, 4), np.uint8)
        Image.fromarray(pixels, "RGBA").convert(mode).save(name)
    return [Path("a.png"), Path("b.jpg"), Path("c.png")]


def expected(model, images: list[Path], transforms: Transforms) -> np.ndarray:
    run = fb.compile_inference(model, fold=False)
    x = predict_module.preprocess_batch(images, transforms)
    return np.asarray(jax.nn.softmax(run(jnp.asarray(x))))


def test_the_answers_are_the_models(
    run: Run, checkpoint: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "BATCH", 2)  # the last batch is a smaller one
    ran = run("predict", *images, "--weights", checkpoint, "--top", "99", "--json", *SMALL)
    assert ran[::2] == (0, "")
    results = json.loads(ran.out)
    model = fb.create_model("mobilenet_v2", weights=checkpoint, **TINY)
    truth = expected(model, images, find_weights("mobilenet_v2", "DEFAULT").transforms)
    assert [result["image"] for result in results] == [str(path) for path in images]
    for result, probabilities in zip(results, truth, strict=True):
        top = result["top"]
        assert [guess["index"] for guess in top] == list(np.argsort(-probabilities))
        assert [guess["class"] for guess in top] == [str(guess["index"]) for guess in top]
        found = np.array([guess["probability"] for guess in top])
        # Folded batch norms and another batch size round differently.
        np.testing.assert_allclose(found, np.sort(probabilities)[::-1], rtol=1e-4)


def test_a_terminal_gets_a_table(run: Run, checkpoint: Path, images: list[Path]) -> None:
    lines = run("predict", *images[:2], "--weights", checkpoint, "--top", "2", *SMALL).out
    first, *guesses = lines.splitlines()[:3]
    assert first == "a.png"
    assert len(lines.splitlines()) == 6
    assert all("%" in guess for guess in guesses)


def test_the_table_has_percentages(run: Run, checkpoint: Path, images: list[Path]) -> None:
    out = run("predict", images[0], "--weights", checkpoint, "--top", "10", *SMALL).out
    shown = [float(line.split()[0].removesuffix("%")) for line in out.splitlines()[1:]]
    assert len(shown) == 10
    assert sum(shown) == pytest.approx(100, abs=10 * 0.005)  # each rounded to 0.01%


@pytest.mark.parametrize("model", ["mobilenet_v2", "mobilenetv2_035"])
def test_a_thousand_classes_have_names(model: str, run: Run, images: list[Path]) -> None:
    fb.write_checkpoint(fb.to_torch(fb.create_model(model, **TINY)), "in.pth")
    options = (*SMALL, "--model", model, "--json")
    ran = run("predict", images[0], "--weights", "in.pth", *options)
    (result,) = json.loads(ran.out)
    names = find_weights("mobilenet_v2", "DEFAULT").categories
    assert len(result["top"]) == 5
    assert all(guess["class"] == names[guess["index"]] for guess in result["top"])


def test_a_thousand_classes_of_a_plain_file_are_assumed_to_be_imagenets_and_said_to_be(
    run: Run, images: list[Path]
) -> None:
    state = fb.to_torch(fb.create_model("mobilenet_v2", **TINY))
    fb.write_checkpoint(state, "in.pth")
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save({"model": tensors, "epoch": 3}, "run.pth")
    names = find_weights("mobilenet_v2", "DEFAULT").categories
    plain = run("predict", images[0], "--weights", "in.pth", *SMALL)
    assert plain.err.startswith(
        "note: the 1000 classes are assumed to be ImageNet's; --classes FILE"
    )
    assert all(line.split("%  ")[1] in names for line in plain.out.splitlines()[1:])
    own = run("predict", images[0], "--weights", "run.pth", *SMALL)
    assert "note: the classes are numbered; --classes FILE, or classes.txt beside the" in own.err
    assert all(re.fullmatch(r" +\S+%  class \d+", line) for line in own.out.splitlines()[1:])


def test_classes_beside_the_weights_or_in_a_file_are_the_names(
    run: Run, refuse: Refuse, checkpoint: Path, images: list[Path]
) -> None:
    def shown(*options: object) -> dict[int, str]:
        ran = run("predict", images[0], "--top", "99", "--json", *options, *SMALL)
        assert ran[::2] == (0, "")
        (result,) = json.loads(ran.out)
        return {guess["index"]: guess["class"] for guess in result["top"]}

    names, others = ([f"{word} {i}" for i in range(10)] for word in ("beside", "given"))
    weights = ("--weights", checkpoint)
    Path("others.txt").write_text("\n".join(others))
    Path("classes.txt").write_text("\ufeff" + "\r\n".join(names) + "\n\n")
    assert shown(*weights) == dict(enumerate(names))
    assert shown(*weights, "--classes", "others.txt") == dict(enumerate(others))
    run("convert", checkpoint, "folder", *SMALL)
    assert shown("--weights", "folder") == dict(enumerate(names))  # beside the folder
    Path("classes.txt").rename("folder/classes.txt")
    assert shown("--weights", "folder") == dict(enumerate(names))  # or in it
    Path("few.txt").write_text("cat\ndog\n")
    named = "few.txt names 2 classes, and the weights have 10"
    refuse("predict", images[0], *weights, "--classes", "few.txt", *SMALL, named=named)
    named = "the classes of missing.txt cannot be read: No such file"
    refuse("predict", images[0], *weights, "--classes", "missing.txt", *SMALL, named=named)
    Path("few.txt").rename("classes.txt")
    err = run("predict", images[0], *weights, *SMALL).err
    assert (
        "classes.txt names 2 classes, and the weights have 10, and is left; the classes are" in err
    )


def test_a_config_beside_the_weights_and_published_ones_name_the_classes() -> None:
    published = find_weights("mobilenet_v2", "DEFAULT")
    labels = {"id2label": {str(i): f"label {i}" for i in range(3)}}
    assert class_names(1000, "DEFAULT", published=published) == ClassNames(published.categories)
    assert class_names(3, "no.pth", settings=labels).names == ("label 0", "label 1", "label 2")
    assert class_names(3, "no.pth", settings={"label_names": ["a", "b", "c"]}).names == tuple("abc")
    for settings in (labels, {"id2label": {"7": "x"}}, {"label_names": None}, None):
        assert class_names(4, "no.pth", settings=settings).names is None


@pytest.mark.parametrize("tag", ["ra_in1k", "mobilenetv2_100.ra_in1k", "IMAGENET1K_V1", "DEFAULT"])
def test_published_weights_bring_their_own_preprocessing(
    tag: str, run: Run, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fb.to_torch(fb.create_model("mobilenet_v2", **TINY))
    fb.write_checkpoint(state, "in.pth")
    monkeypatch.setattr(
        "flaxblocks.weights.fetch.fetch_weights", lambda entry, progress: Path("in.pth")
    )
    seen = []
    small = predict_module.preprocess_batch
    monkeypatch.setattr(
        predict_module, "preprocess_batch", lambda p, t: seen.append(t) or small(p, t)
    )
    assert run("predict", images[0], "--weights", tag, *SMALL).status == 0
    assert seen == [find_weights("mobilenet_v2", tag).transforms]


@pytest.mark.parametrize(
    ("layout", "name"), [("torchvision", "mobilenet_v2"), ("timm", "mobilenetv2_100")]
)
def test_a_files_preprocessing_is_that_of_its_layouts_library(
    layout: str, name: str, run: Run, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fb.to_torch(fb.create_model("mobilenet_v2", **TINY), layout)
    fb.write_checkpoint(state, "in.pth")
    seen = []
    small = predict_module.preprocess_batch
    monkeypatch.setattr(
        predict_module, "preprocess_batch", lambda p, t: seen.append(t) or small(p, t)
    )
    assert run("predict", images[0], "--weights", "in.pth", *SMALL).status == 0
    (wanted,) = (w for w in list_weights("mobilenet_v2") if w.model == name and w.default)
    assert seen == [wanted.transforms]


def test_an_orbax_folder_is_taken_for_a_file(
    run: Run, checkpoint: Path, images: list[Path]
) -> None:
    run("convert", checkpoint, "folder", *SMALL)
    from_file, from_folder = (
        run("predict", images[0], "--weights", weights, "--json", *SMALL)
        for weights in (checkpoint, "folder")
    )
    assert from_folder[::2] == (0, "")
    assert from_folder.out == from_file.out


def test_an_image_of_16_bits_is_scaled_and_one_of_floats_is_refused(
    run: Run,
    refuse: Refuse,
    checkpoint: Path,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Image.open("b.jpg") as photograph:
        grey = np.asarray(photograph)
    Image.fromarray(grey).save("narrow.png")
    Image.fromarray(grey * np.uint16(257)).save("deep.png")
    Image.fromarray(grey.astype(np.float32) / 255).save("floats.tif")
    seen = []
    small = predict_module.preprocess_batch
    monkeypatch.setattr(
        predict_module, "preprocess_batch", lambda p, t: seen.append(small(p, t)) or seen[-1]
    )
    options = ("--weights", checkpoint, "--json", *SMALL)
    assert run("predict", "narrow.png", "deep.png", *options).status == 0
    ((narrow, deep),) = seen
    np.testing.assert_array_equal(deep, narrow)
    named = "image 'floats.tif' cannot be read: its mode 'F' does not say which value is white"
    refuse("predict", images[0], "floats.tif", *options, named=named)


def test_a_wrong_image_is_named(refuse: Refuse, checkpoint: Path, images: list[Path]) -> None:
    whole = images[0].read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    Path("text.jpg").write_text("no image")
    Path("folder.png").mkdir()
    for wrong in ("missing.jpg", "cut.png", "text.jpg", "folder.png"):
        refuse("predict", images[0], wrong, "--weights", checkpoint, *SMALL, named=wrong)
    refuse("predict", "--weights", checkpoint, *SMALL, named="IMAGE")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--weights", "missing.pth"), "missing.pth"),
        (("--weights", "a.png"), "a.png"),
        (("--weights", "IMAGENET1K_V9"), "`weights` (='IMAGENET1K_V9') is neither a file nor "),
        (("--weights", "resnet50.a1_in1k"), "resnet50"),
        (("--weights", "in.pth", "--top", "0"), "--top"),
        (("--weights", "in.pth", "--num-classes", "7"), "`num_classes` (=7)"),
        (("--weights", "in.pth", "--num-classes", "0"), "`num_classes` (=0) must be at least 1"),
        (("--weights", "in.pth", "--in-channels", "1"), "`in_channels` (=1)"),
        (("--weights", "in.pth", "--set", "dropout=x"), "dropout"),
        ((), "--weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_weights_or_options_are_named(
    options: tuple[str, ...], named: str, refuse: Refuse, checkpoint: Path, images: list[Path]
) -> None:
    refuse("predict", images[0], *options, *SMALL, named=named)


def test_weights_without_a_head_predict_nothing(
    refuse: Refuse, checkpoint: Path, images: list[Path]
) -> None:
    whole = fb.read_checkpoint(checkpoint)
    body = {name: array for name, array in whole.items() if not name.startswith("classifier")}
    fb.write_checkpoint(body, "body.safetensors")
    named = "without classifier.1.weight and classifier.1.bias: without a head there are no classes"
    refuse("predict", images[0], "--weights", "body.safetensors", *SMALL, named=named)
    deeper = {f"classifier.{layer}.weight": np.ones((8, 8), "float32") for layer in (1, 3)}
    fb.write_checkpoint(body | deeper, "other.safetensors")
    named = "it has another head, classifier.1.weight, classifier.3.weight: without a head there"
    refuse("predict", images[0], "--weights", "other.safetensors", *SMALL, named=named)


def test_without_a_network_the_sentence_says_where_to_put_the_file(
    refuse: Refuse, images: list[Path], tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def no_network(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route to host")

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FLAXBLOCKS_CACHE", str(cache))
    monkeypatch.setattr(requests.Session, "request", no_network)
    options = ("--model", "mobilenet_v2", "--weights", "IMAGENET1K_V1")
    refuse("predict", images[0], *options, named=str(cache / "mobilenet_v2-b0353104.pth"))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_overflow_are_refused(
    value: float, refuse: Refuse, here: Path, images: list[Path], state: State
) -> None:
    bad = {**state, "classifier.1.bias": np.full(10, value, np.float32)}
    fb.write_checkpoint(bad, "bad.pth")
    refuse("predict", images[0], "--weights", "bad.pth", "--json", *SMALL, named="bad.pth")
