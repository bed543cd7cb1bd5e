"""Every registered model against the library that published it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flaxblocks as fb
from flaxblocks.oracle import calibrate, import_torchvision, make_oracle
from flaxblocks.parity.verify import verify
from flaxblocks.registry import find_model, model_entries
from tests.support import train_both

tv = import_torchvision()
ENTRIES = {entry.name: entry for entry in model_entries()}
WIDTHS = [0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0]
ODD_SIZES = [(97, 131), (33, 65), (224, 160), (50, 71), (64, 64), (75, 40), (32, 97), (111, 45)]


def photographs(size: int = 96) -> np.ndarray:
    """scikit-learn's two photographs, cropped to squares, preprocessed as ImageNet images are."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from flaxblocks.preprocess import Transforms, preprocess_batch

    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    return preprocess_batch(pictures, Transforms(resize_size=size, crop_size=(size, size)))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_model_agrees_with_its_library_in_inference(name):
    report = verify(ENTRIES[name], size=(65, 47), batch=2)
    assert report.first_departure is None, str(report)  # 1e-12 in float64 at every module
    assert report.float32_holds, report.summary()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_model_round_trip_is_bit_exact_and_loads_strictly(name):
    entry = ENTRIES[name]
    oracle = make_oracle(entry, 10, 3, {})
    state = oracle.state_dict()
    model = fb.create_model(name, weights=state)
    back = fb.to_torch(model)
    assert list(back) == list(state)
    for key, value in state.items():
        assert back[key].dtype == value.numpy().dtype, key
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
    oracle.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()})


@pytest.mark.parametrize(("width", "size"), list(zip(WIDTHS, ODD_SIZES, strict=True)))
def test_mobilenet_v2_agrees_at_every_width_and_odd_sizes(width, size):
    report = verify(find_model("mobilenet_v2"), size=size, batch=2, config={"width_mult": width})
    assert report.first_departure is None, str(report)  # 1e-12 in float64 at every module
    assert report.float32_holds, report.summary()


@pytest.mark.parametrize(
    "config",
    [
        {"round_nearest": 1, "width_mult": 0.75},
        {"inverted_residual_setting": [[1, 16, 1, 1], [1.5, 24, 2, 2]], "dropout": 0.5},
    ],
)
def test_mobilenet_v2_agrees_with_other_arguments(config):
    report = verify(find_model("mobilenet_v2"), size=(40, 33), config=config, num_classes=5)
    assert report.ok, report.summary()


@pytest.mark.parametrize(("width", "size"), [(0.25, (65, 47)), (1.0, (64, 96))])
def test_mobilenet_v2_agrees_in_training_mode_with_buffers_and_gradients(width, size):
    report = verify(
        find_model("mobilenet_v2"),
        size=size,
        batch=3,
        train=True,
        grad=True,
        float32=False,
        num_classes=7,
        config={"width_mult": width},
    )
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10
    kinds = [row.kind for row in report.rows]
    assert kinds.count("buffer") == 3 * 52
    assert kinds.count("gradient") == 158


def test_mobilenet_v2_gradients_agree_in_inference_mode():
    options = {"size": (65, 47), "num_classes": 7, "config": {"width_mult": 0.5}}
    report = verify(find_model("mobilenet_v2"), grad=True, float32=False, **options)
    assert report.first_departure is None, str(report)


def test_mobilenet_v2_follows_ten_optimiser_steps():
    oracle = make_oracle(find_model("mobilenet_v2"), 5, 3, {"width_mult": 0.25})
    calibrate(oracle, (4, 3, 64, 64))
    model = fb.create_model("mobilenet_v2", weights=oracle.state_dict(), width_mult=0.25)
    x = np.random.default_rng(0).standard_normal((8, 65, 79, 3))
    # A tenth of the blocks' rates: at theirs SGD diverges, and amplifies rounding as it does.
    errors = train_both(model, oracle, x, "torchvision", pace=0.1)
    assert max(errors.values()) <= 1e-8, errors  # parameters and buffers, float64


def test_mobilenet_v2_agrees_on_photographs():
    oracle = make_oracle(find_model("mobilenet_v2"), 1000, 3, {})
    calibrate(oracle, (4, 3, 96, 96))
    model = fb.create_model("mobilenet_v2", weights=oracle.state_dict())
    report = fb.parity.compare(model, oracle, photographs())
    assert report.ok, report.summary()


def test_mobilenet_v2_agrees_with_the_twin_and_takes_other_channels():
    from torch_ref.models import MobileNetV2

    torch.manual_seed(0)
    twin = MobileNetV2(num_classes=6, width_mult=0.35, in_channels=5)
    calibrate(twin, (4, 5, 64, 64))
    model = fb.create_model(
        "mobilenet_v2", weights=twin.state_dict(), width_mult=0.35, in_channels=5
    )
    x = np.random.default_rng(0).standard_normal((2, 50, 37, 5))
    assert fb.parity.compare(model, twin, x).ok


def test_features_agree_with_timm():
    import timm

    torch.manual_seed(0)
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

    torch.manual_seed(0)
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


def test_compiled_inference_agrees_with_pytorch():
    oracle = make_oracle(find_model("mobilenet_v2"), 10, 3, {"width_mult": 0.5})
    calibrate(oracle, (4, 3, 64, 64))
    model = fb.create_model("mobilenet_v2", weights=oracle.state_dict(), width_mult=0.5)
    x = np.random.default_rng(0).standard_normal((4, 97, 65, 3))
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = fb.parity.relative_error(
            oracle.float()(channels_first.float()).numpy(),
            truth := oracle.double()(channels_first).numpy(),
        )
    ours = fb.parity.relative_error(
        np.asarray(fb.compile_inference(model)(jnp.asarray(x, jnp.float32))), truth
    )
    assert ours <= fb.parity.FLOAT32_FACTOR * theirs  # folding changes the order of roundings only
