"""The demo's two files against each other and scikit-learn's digits; the tool that makes them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from flaxblocks.demo import digits
from flaxblocks.parity.oracle import import_torchvision
from tools import make_demo_checkpoint as tool


def torchvision_model(**arguments: Any) -> torch.nn.Module:
    import_torchvision()
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(**arguments)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torch.load(digits.checkpoint_path(), weights_only=True)


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load_digits()


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_the_checkpoint_gives_the_stored_logits(
    state: dict[str, torch.Tensor], data: digits.Digits
) -> None:
    model = torchvision_model(width_mult=0.25, num_classes=10).eval()
    assert [(k, v.shape, v.dtype) for k, v in model.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in state.items()
    ]
    model.load_state_dict(state)
    x = tool.to_tensor(data.images)
    with torch.no_grad():
        single = model(x).numpy()
        double = model.double()(x.double()).numpy()
    assert (single.dtype, data.logits.dtype) == (np.float32, np.float32)
    assert (double.dtype, data.logits64.dtype) == (np.float64, np.float64)
    # Bit-equal where PyTorch picks the same kernels; its own convolutions in place of oneDNN's, as
    # on another processor, differ by 7e-6.
    assert relative_error(single, data.logits) <= 2e-5
    assert relative_error(double, data.logits64) <= 1e-12
    # PyTorch's float32 rounding through 52 convolutions: 8e-7.
    assert relative_error(data.logits.astype(np.float64), data.logits64) <= 5e-6


def test_the_network_has_learnt(data: digits.Digits) -> None:
    assert np.mean(data.logits.argmax(1) == data.labels) >= 0.98
    assert np.array_equal(data.logits.argmax(1), data.logits64.argmax(1))


def test_the_checkpoint_is_trained_throughout(state: dict[str, torch.Tensor]) -> None:
    """Defaults (scale 1, shift 0, mean 0, variance 1) would hide a mistake in a conversion."""
    for key, value in state.items():
        if value.is_floating_point():
            assert float(value.std()) > 0, key
            assert bool(value.isfinite().all()), key
        else:
            assert int(value) == tool.EPOCHS * (1437 // tool.BATCH_SIZE), key


def test_the_scans_are_scikit_learns_and_were_held_out(data: digits.Digits) -> None:
    train_images, images, train_labels, labels = digits.split_digits()
    assert np.array_equal(images, data.images)
    assert np.array_equal(labels, data.labels)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.uint8)
    assert (len(train_images), len(train_labels), len(images)) == (1437, 1437, 360)
    assert np.bincount(labels).min() >= 34  # stratified
    # No held-out scan has an identical copy among the training scans.
    assert not {scan.tobytes() for scan in images} & {scan.tobytes() for scan in train_images}

    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    known = {
        (scan.tobytes(), label) for scan, label in zip(bunch.images, bunch.target, strict=True)
    }
    held_out = zip(data.images.astype(np.float64), data.labels, strict=True)
    assert {(scan.tobytes(), label) for scan, label in held_out} <= known


def test_the_files_are_small_and_named(data: digits.Digits) -> None:
    folder = Path(digits.__file__).parent
    assert digits.checkpoint_path() == folder / "mobilenet_v2_digits.pth"
    assert 0.9e6 < digits.checkpoint_path().stat().st_size < 1.5e6
    assert (folder / "digits.npz").stat().st_size < 1e5
    assert data.torch_version[0].isdigit()


def test_images_are_resized_bilinearly_and_normalised(data: digits.Digits) -> None:
    images = digits.digits_to_images(data.images)
    assert images.shape == (360, 32, 32, 3)
    assert images.dtype == np.float32
    assert np.array_equal(images[..., 0], images[..., 2])
    scans = torch.from_numpy(data.images)[:, None].double()
    resized = functional.interpolate(scans, (32, 32), mode="bilinear")[:, 0].numpy()
    expected = (resized / 16 - digits.MEAN) / digits.STD
    # Float32 rounding: values up to 2, a handful of operations.
    assert np.abs(images[..., 1] - expected).max() <= 2e-6


def test_the_constants_are_the_training_digits_moments() -> None:
    images = digits.digits_to_images(digits.split_digits()[0]).astype(np.float64)
    # The constants have three decimals: 0.0005 / STD = 0.0016.
    assert abs(images.mean()) < 0.002
    assert abs(images.std() - 1) < 0.002


def test_an_empty_batch_stays_empty() -> None:
    assert digits.digits_to_images(np.empty((0, 8, 8), np.uint8)).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((8, 8), np.uint8),
            r"`images` \(=uint8 of shape \(8, 8\)\) must be uint8 of shape",
        ),
        (np.zeros((2, 8, 9), np.uint8), r"of shape \(2, 8, 9\)"),
        (np.zeros((2, 8, 8), np.float32), r"`images` \(=float32 of shape"),
        (
            np.full((2, 8, 8), 17, np.uint8),
            r"`images` \(maximum 17\) must have values from 0 to 16",
        ),
    ],
)
def test_other_scans_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits.digits_to_images(images)


def test_augmentation_moves_ink_on_blank_paper() -> None:
    blank = torch.full((4, 3, 32, 32), -digits.MEAN / digits.STD)
    first = torch.Generator().manual_seed(0)
    torch.testing.assert_close(tool.augment(blank, first), blank)

    inked = blank.clone()
    inked[:, :, 12:20, 12:20] = 2.0
    moved = tool.augment(inked, first)
    assert not torch.equal(moved[0], moved[1])
    spread = (moved - blank).sum((1, 2, 3)) / (inked - blank).sum((1, 2, 3))
    assert bool(((spread - 1).abs() < 0.05).all())  # ink is neither lost nor made, up to resampling
    x = torch.arange(32.0) - 15.5
    centre = ((moved - blank).mean(1).sum(1) * x).sum(1) / (moved - blank).mean(1).sum((1, 2))
    assert bool((centre.abs() <= tool.SHIFT + 0.1).all())
    assert float(centre.abs().max()) > 0.2


@pytest.fixture
def torch_settings() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_rng_state(state)


@pytest.mark.usefixtures("torch_settings")
def test_the_tool_writes_nothing_below_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_demo_checkpoint", "--epochs=1", f"--out={tmp_path}"])
    with pytest.raises(SystemExit, match=r"is below 0.98: nothing written"):
        tool.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("torch_settings")
def test_the_tool_writes_both_files_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = digits.split_digits()
    monkeypatch.setattr(digits, "split_digits", lambda: tuple(part[:128] for part in parts))
    monkeypatch.setattr(tool, "MIN_ACCURACY", 0.0)
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(sys, "argv", ["tool", "--epochs=1", f"--out={tmp_path / name}"])
        tool.main()
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert set(written[0]) == {"mobilenet_v2_digits.pth", "digits.npz"}
    assert written[0] == written[1]
