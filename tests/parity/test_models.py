"""Every registered model against the library that published it; training once for each family.

A new family is tested by its registry rows alone. What costs most, gradients and training, is done
for the smallest row of each class; for every row, and for the largest rows at all, by `pytest -m
thorough`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.models.registry import ModelEntry, model_entries
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import load_arrays, make_oracle
from flaxblocks.parity.verify import verify
from tests.memory import forget
from tests.support import (
    by_default,
    calibrated_pair,
    compiled_errors,
    smallest_of_each_family,
    train_both,
)

ENTRIES = {entry.name: entry for entry in model_entries()}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
FAMILIES = pytest.mark.parametrize("entry", smallest_of_each_family(), ids=lambda entry: entry.name)
SOME_FAMILIES = by_default("resnet10t", "mobilenetv2_035")


def size_for(entry: ModelEntry) -> tuple[int, int]:
    """Odd sides, but for the models that PyTorch itself refuses them: their average pools round
    down where their shortcuts round up.
    """
    return (64, 96) if entry.config.get("antialias") == "avg" else (65, 47)


def photographs(height: int, width: int) -> np.ndarray:
    """scikit-learn's two photographs, cropped, preprocessed as ImageNet images are."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from flaxblocks.weights.preprocess import Transforms, preprocess_batch

    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    return preprocess_batch(pictures, Transforms(max(height, width), (height, width)))


LARGE = 10_000_000  # parameters; in float64 the largest take 10 GB and a minute each


def _marks(entry: ModelEntry) -> list[pytest.MarkDecorator]:
    by_default = (entry.parameters or 0) <= LARGE or entry in smallest_of_each_family()
    return [] if by_default else [pytest.mark.thorough]


EVERY = pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=name, marks=_marks(entry)) for name, entry in ENTRIES.items()],
)


@pytest.fixture
def _memory_goes_back(request):
    """A model compiled as a whole is no other's program, and what malloc would keep of a large one,
    the other worker may need.
    """
    yield
    if request.node.get_closest_marker("thorough"):
        forget()


@pytest.mark.untyped  # annotations are checked in the tests of each family
@pytest.mark.usefixtures("_memory_goes_back")
@EVERY
def test_every_model_agrees_and_goes_back_bit_for_bit(entry):
    model, oracle = calibrated_pair(entry, 10, passes=1)
    state = oracle.state_dict()
    back = fb.to_torch(model)
    assert list(back) == list(state)
    for key, value in state.items():
        assert back[key].dtype == value.numpy().dtype, key
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
    load_arrays(oracle, back)
    del state, back
    x = np.random.default_rng(0).standard_normal((2, *size_for(entry), 3))
    report = fb.parity.compare(model, oracle, x, entry.layout, float32=False)
    assert report.first_departure is None, str(report)  # 1e-12 in float64 at every module


@pytest.mark.thorough
@pytest.mark.usefixtures("_memory_goes_back")
@EVERY
def test_every_model_agrees_in_float32(entry):
    report = verify(entry, size=size_for(entry), batch=2)
    assert report.ok, report.summary()


@pytest.mark.thorough
@pytest.mark.usefixtures("_memory_goes_back")
@EVERY
def test_every_model_agrees_in_training_with_gradients(entry):
    report = verify(
        entry, size=size_for(entry), batch=8, train=True, grad=True, float32=False, num_classes=7
    )
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10


@SOME_FAMILIES
def test_a_family_agrees_on_photographs_of_odd_sides_in_float32_too(entry):
    model, oracle = calibrated_pair(entry, 1000)
    report = fb.parity.compare(model, oracle, photographs(97, 65))
    assert report.ok, report.summary()


@SOME_FAMILIES  # as one program all of them
def test_a_family_agrees_in_training_mode_with_buffers_and_gradients(entry):
    report = verify(
        entry, size=(65, 47), batch=8, train=True, grad=True, float32=False, num_classes=7
    )
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10
    state = make_oracle(entry, 7, 3, {}).state_dict()
    buffers = sum(key.rsplit(".")[-1] in BUFFERS for key in state)
    kinds = [row.kind for row in report.rows]
    assert kinds.count("buffer") == buffers > 0
    assert kinds.count("gradient") == len(state) - buffers


@SOME_FAMILIES
def test_a_familys_gradients_agree_in_inference_mode(entry):
    report = verify(entry, size=(65, 47), num_classes=7, grad=True, float32=False)
    assert report.first_departure is None, str(report)  # 1e-10


@pytest.mark.thorough  # by default those of test_training.py, through the training program
@FAMILIES
def test_a_family_follows_ten_steps_of_each_optimiser(entry):
    # With few classes the heads of some libraries start so large that SGD diverges.
    model, oracle = calibrated_pair(entry, 1000)
    x = np.random.default_rng(0).standard_normal((8, 47, 33, 3))
    # A tenth of the blocks' rates: at theirs a whole model amplifies rounding step by step.
    errors = train_both(model, oracle, x, entry.layout, pace=0.1)
    assert max(errors.values()) <= 1e-8, errors  # parameters and buffers, float64


@FAMILIES
def test_compiled_inference_agrees_with_pytorch(entry):
    ours, theirs = compiled_errors(entry, (97, 65))
    assert ours <= fb.parity.FLOAT32_FACTOR * theirs  # folding changes the order of roundings only


def test_features_agree_with_timm():
    import timm

    oracle: Any = timm.create_model("mobilenetv2_050", features_only=True, out_indices=(0, 2, 4))
    full: Any = timm.create_model("mobilenetv2_050", num_classes=3)
    calibrate(full, (4, 3, 64, 64))
    oracle.load_state_dict(full.state_dict(), strict=False)
    oracle.eval()
    model = fb.create_model(
        "mobilenetv2_050", weights=full.state_dict(), features_only=True, out_indices=(0, 2, 4)
    )
    model.eval()
    assert model.feature_info.channels() == oracle.feature_info.channels()
    assert model.feature_info.reduction() == oracle.feature_info.reduction()
    x = np.random.default_rng(0).standard_normal((2, 65, 47, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = oracle(torch.from_numpy(x).permute(0, 3, 1, 2))
    for ours, wanted in zip(model(jnp.asarray(x)), theirs, strict=True):
        # float32 in both: some tens of roundings of 6e-8
        np.testing.assert_allclose(
            ours, wanted.permute(0, 2, 3, 1), rtol=0, atol=2e-5 * wanted.abs().max().item()
        )


def test_pooled_features_and_pre_logits_agree_with_timm():
    import timm

    full: Any = timm.create_model("mobilenetv2_050", num_classes=3)
    calibrate(full, (4, 3, 64, 64))
    model = fb.create_model("mobilenetv2_050", weights=full.state_dict())
    pooled = fb.create_model("mobilenetv2_050", weights=full.state_dict(), num_classes=0)
    model.eval()
    pooled.eval()
    x = np.random.default_rng(0).standard_normal((2, 65, 47, 3)).astype(np.float32)
    with torch.no_grad():
        features = full.forward_features(torch.from_numpy(x).permute(0, 3, 1, 2))
        wanted = full.forward_head(features, pre_logits=True).numpy()
    ours = model.forward_head(model.forward_features(jnp.asarray(x)), pre_logits=True)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5 * abs(wanted).max())
    np.testing.assert_array_equal(ours, pooled(jnp.asarray(x)))
