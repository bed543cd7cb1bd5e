"""What a checkpoint says of the model it is for: its layout, classes, channels, and whose it is."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxblocks as fb
from flaxblocks.convert.stem import adapt_input_channels
from flaxblocks.create.lookalike import looks_like
from tests.create.conftest import SMALL


@pytest.fixture(scope="module")
def resnet():
    return fb.to_torch(fb.create_model("resnet18", num_classes=5))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("layout", ["torchvision", "flax"])
def test_a_stem_for_rgb_is_adapted_as_timm_adapts_it(resnet, channels, layout):
    import torch
    from timm.models import adapt_input_conv

    whole = fb.create_model("resnet18", weights=resnet)
    model = fb.create_model("resnet18", weights=fb.to_torch(whole, layout), in_channels=channels)
    state = fb.to_torch(model, "torchvision")
    wanted = adapt_input_conv(channels, torch.from_numpy(resnet["conv1.weight"])).numpy()
    # the sum over three channels may round otherwise
    np.testing.assert_allclose(state.pop("conv1.weight"), wanted, rtol=1e-6, atol=1e-8)
    assert all(np.array_equal(value, resnet[key]) for key, value in state.items())


def test_a_grey_image_gives_what_it_gave_as_rgb(resnet):
    rgb = fb.create_model("resnet18", weights=resnet)
    grey = fb.create_model("resnet18", weights=resnet, in_channels=1)
    rgb.eval()
    grey.eval()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 40, 33, 1)), jnp.float32)
    wanted = rgb(jnp.repeat(x, 3, axis=-1))
    np.testing.assert_allclose(grey(x), wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_narrow_kernels_are_adapted_in_float32():
    kernel = np.full((1, 1, 3, 1), 1 / 3, jnp.bfloat16)
    assert adapt_input_channels(kernel, 1).dtype == jnp.bfloat16
    assert float(adapt_input_channels(kernel, 1)[0, 0, 0, 0]) == 1.0


def test_other_channels_than_rgbs_are_not_adapted():
    five = fb.to_torch(fb.create_model("mobilenet_v2", in_channels=5, num_classes=2, **SMALL))
    with pytest.raises(fb.ConversionError, match=r"\(a model built with in_channels=5 would fit\)"):
        fb.create_model("mobilenet_v2", weights=five, **SMALL)
    model = fb.create_model("mobilenet_v2", weights=five, in_channels=5, **SMALL)
    assert np.array_equal(fb.to_torch(model)["features.0.0.weight"], five["features.0.0.weight"])


@pytest.mark.parametrize("classes", [5, 1000])
@pytest.mark.parametrize("layout", ["torchvision", "flax"])
def test_a_checkpoint_of_another_model_is_named(classes, layout):
    state = fb.to_torch(fb.create_model("resnet26", num_classes=classes), layout)
    for name in ("mobilenet_v2", "resnet50"):
        with pytest.raises(fb.ConversionError, match="one of resnet26") as caught:
            fb.create_model(name, weights=state)
        assert len(caught.value.describe(most=2)) < 900
    with pytest.raises(fb.ConversionError, match="one of resnet26"):
        fb.load_torch(fb.create_model("resnet18", num_classes=classes), state)


def test_what_is_of_no_model_is_not_named(resnet):
    assert looks_like(resnet) == "resnet18 or resnetblur18"
    assert looks_like({}) is None
    assert looks_like({"a": np.zeros((3, 4)), "b": np.zeros(())}) is None
    short = {key: value for key, value in resnet.items() if key != "layer1.0.bn1.running_var"}
    assert looks_like(short) is None
    wider = {**resnet, "bn1.weight": np.zeros(128), "layer1.0.bn1.weight": np.zeros(0)}
    assert looks_like(wider) is None  # as many parameters, other shapes


def test_every_model_that_a_checkpoint_may_be_of_is_named():
    state = fb.to_torch(fb.create_model("resnetblur50", num_classes=3))
    with pytest.raises(fb.ConversionError, match="one of resnet50, resnetaa50 or resnetblur50 and"):
        fb.create_model("resnet34", weights=state)


HEAD = ("classifier.1.weight", "classifier.1.bias")


def test_a_backbone_without_its_head_is_taken_where_the_caller_says_what_comes_after_it():
    whole = fb.to_torch(fb.create_model("mobilenet_v2", num_classes=2, **SMALL))
    backbone = {key: array for key, array in whole.items() if key not in HEAD}
    with pytest.raises(
        fb.ConversionError, match=r"without classifier.*`num_classes=0` returns its"
    ):
        fb.create_model("mobilenet_v2", weights=backbone, **SMALL)
    new = fb.to_torch(fb.create_model("mobilenet_v2", weights=backbone, num_classes=7, **SMALL))
    drawn = fb.to_torch(fb.create_model("mobilenet_v2", num_classes=7, **SMALL))
    assert all(np.array_equal(new[key], {**drawn, **backbone}[key]) for key in drawn)
    pooled = fb.create_model("mobilenet_v2", weights=backbone, num_classes=0, **SMALL)
    maps = fb.create_model("mobilenet_v2", weights=backbone, features_only=True, **SMALL)
    for model in (pooled, maps):
        assert all(np.array_equal(a, backbone[key]) for key, a in fb.to_torch(model).items())


def test_a_hole_in_the_backbone_is_refused():
    state = fb.to_torch(fb.create_model("mobilenet_v2", num_classes=2, **SMALL))
    del state["features.1.conv.0.0.weight"]
    for options in ({}, {"num_classes": 7}, {"num_classes": 2}, {"features_only": True}):
        with pytest.raises(fb.ConversionError, match=r"1 missing: features.1"):
            fb.create_model("mobilenet_v2", weights=state, **options, **SMALL)


@pytest.mark.parametrize("absent", HEAD)
def test_half_a_head_is_refused_unless_the_caller_says_what_comes_in_its_place(absent):
    whole = fb.to_torch(fb.create_model("mobilenet_v2", num_classes=2, **SMALL))
    state = {key: array for key, array in whole.items() if key != absent}
    with pytest.raises(fb.ConversionError, match=rf"1 missing: {absent}"):
        fb.create_model("mobilenet_v2", weights=state, **SMALL)
    for classes in (7, 2, 0):
        model = fb.create_model("mobilenet_v2", weights=state, num_classes=classes, **SMALL)
        body = {key: array for key, array in fb.to_torch(model).items() if key not in HEAD}
        assert all(np.array_equal(array, whole[key]) for key, array in body.items())
        (left,) = set(HEAD) - {absent}
        assert left in model.origin.report.left


def test_another_width_of_the_same_class_is_not_called_a_lookalike(resnet):
    wide = fb.to_torch(fb.create_model("resnet18", num_classes=7))
    with pytest.raises(fb.ConversionError) as caught:
        fb.load_torch(fb.create_model("resnet18", num_classes=5), wide)
    assert "num_classes=7 would fit" in str(caught.value)
    assert "is one of" not in str(caught.value)
