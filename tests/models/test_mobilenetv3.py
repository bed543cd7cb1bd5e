"""MobileNetV3: how it is scaled, the layer between pooling and head, arguments, initialisation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision import models

import flaxblocks as fb
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models import FeatureExtractor
from flaxblocks.models.mobilenetv3_rows import SMALL


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize(
    "config",
    [
        {"width_mult": 0.35},
        {"width_mult": 0.6, "reduced_tail": True},
        {"reduced_tail": True},
        {"width_mult": 1.3},
    ],
    ids=str,
)
def test_keys_and_shapes_are_torchvisions_at_other_widths(name, config):
    with torch.device("meta"):
        original = models.get_model(name, **config)
    keys = key_map(abstract_model(name, **config), "torchvision")
    wanted = {key: tuple(value.shape) for key, value in original.state_dict().items()}
    assert {key: entry.foreign_shape for key, entry in keys.by_foreign.items()} == wanted


@pytest.mark.parametrize(("size", "width"), [("large", 0.35), ("large", 1.3), ("small", 0.9)])
def test_keys_and_shapes_are_timms_at_other_widths(size, width):
    from timm.models.mobilenetv3 import _gen_mobilenet_v3

    with torch.device("meta"):
        original = _gen_mobilenet_v3(f"mobilenetv3_{size}_100", width)
    model = abstract_model(f"mobilenetv3_{size}_100", width_mult=width, fix_stem=width < 0.75)
    keys = key_map(model, "timm")
    wanted = {key: tuple(value.shape) for key, value in original.state_dict().items()}
    assert {key: entry.foreign_shape for key, entry in keys.by_foreign.items()} == wanted


@pytest.mark.parametrize(
    ("name", "millions"), [("mobilenet_v3_large", 219), ("mobilenet_v3_small", 56)]
)
def test_multiply_adds_are_the_papers(name, millions):
    rows = summarize(abstract_model(name), (224, 224))
    total = sum(row.multiply_adds for row in rows)
    assert total / 1e6 == pytest.approx(millions, rel=0.02)  # table 3 counts no gates


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"inverted_residual_setting": ()}, "`inverted_residual_setting`.*at least one row"),
        (
            {"inverted_residual_setting": (SMALL[0], (3, 16, 16))},
            r"row \(3, 16, 16\): each must be \(kernel, hidden, out, squeeze_excite",
        ),
        (
            {"inverted_residual_setting": ((3, 16, 16, True, "relu", 3),)},
            "stride 3 in row .*: it must be 1 or 2",
        ),
        (
            {"inverted_residual_setting": ((3, 0, 16, True, "relu", 1),)},
            "every number must be positive",
        ),
        (
            {"inverted_residual_setting": ((3, 16, 16, True, "swoosh", 1),)},
            r"`activation` \(='swoosh'\) must be one of",
        ),
        ({"last_features": 0}, r"`last_features` \(=0\)"),
        ({"head_depth": 0}, r"`head_depth` \(=0\)"),
        ({"gates": "halves"}, r"`gates` \(='halves'\) must be one of 'eights', 'quarters'"),
        ({"padding": "VALID"}, r"`padding` \(='VALID'\) must be one of None, 'SAME'"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("mobilenet_v3_small", **config)


def test_the_last_map_and_the_vector_that_the_head_sees_differ_in_width():
    model: Any = fb.create_model("mobilenet_v3_small", width_mult=0.25, num_classes=3)
    assert model.num_features == 6 * 24
    assert model.head_features == 256
    pooled: Any = fb.create_model("mobilenet_v3_small", width_mult=0.25, num_classes=0)
    assert pooled.head is None
    model.eval()
    pooled.eval()
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    features = jax.eval_shape(model.forward_features, x)
    assert features.shape == (2, 1, 1, 144)
    before = jax.eval_shape(lambda x: model.forward_head(x, pre_logits=True), features)
    assert before.shape == jax.eval_shape(pooled, x).shape == (2, 256)


def test_a_feature_extractor_lets_go_of_the_layer_before_the_head():
    model = abstract_model("mobilenetv3_small_050")
    assert model.feature_info.module_name()[-1] == "head_conv"
    extractor: Any = FeatureExtractor(model)
    assert extractor.backbone.embedding is None
    assert extractor.backbone.head_conv is not None
    cut: Any = FeatureExtractor(abstract_model("mobilenetv3_small_050"), [3])
    assert cut.backbone.head_conv is None
    assert count_parameters(cut) < count_parameters(extractor)


def test_minimal_is_plain_throughout():
    model = abstract_model("mobilenet_v3_small", minimal=True)
    assert all(block.squeeze_excite is None for block in model.blocks)
    assert {block.conv.conv.kernel_size for block in model.blocks} == {(3, 3)}
    activations = {block.conv.activation.__name__ for block in model.blocks}
    assert activations | {model.stem.activation.__name__, model.activation.__name__} == {"relu"}


def test_two_last_convolutions_are_one_step():
    model = abstract_model("mobilenetv3_large_150d")
    assert model.depths == (2, 3, 4, 5, 3, 4)
    assert [name for name, _ in model.steps][-1] == "head_conv"
    assert model.head_conv_paths() == ["head_conv.layers.0", "head_conv.layers.1"]


def test_stochastic_depth_grows_as_in_timm():
    import timm
    from timm.layers.drop import DropPath

    with torch.device("meta"):
        original: Any = timm.create_model("mobilenetv3_small_100", drop_path_rate=0.3)
    model = abstract_model("mobilenetv3_small_100", stochastic_depth=0.3)
    theirs = [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) and block.has_skip else 0
        for stage in original.blocks[:-1]
        for block in stage
    ]
    ours = [block.stochastic_depth.rate if block.stochastic_depth else 0 for block in model.blocks]
    assert ours == pytest.approx(theirs)
    assert sum(rate > 0 for rate in ours) == 6


def deviation(variable: Any) -> float:
    return float(np.std(np.asarray(variable[...])))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenetv3_small_100"])
def test_initialisation_is_the_librarys(name):
    model: Any = fb.create_model(name)
    is_timm = name == "mobilenetv3_small_100"
    block = model.blocks[-1]
    assert deviation(block.expand.conv.kernel) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    fan_out = 25 if is_timm else 25 * 576
    assert deviation(block.conv.conv.kernel) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    embedding = (2 / 1024) ** 0.5 if is_timm else 0.01
    assert deviation(model.embedding.kernel) == pytest.approx(embedding, rel=0.02)
    head = np.asarray(model.head.kernel[...])
    assert np.std(head) == pytest.approx((3 * 1000) ** -0.5 if is_timm else 0.01, rel=0.02)
    assert (abs(head).max() <= 1000**-0.5) == is_timm
    biases = [model.embedding, model.head, block.squeeze_excite.reduce, block.squeeze_excite.expand]
    assert not any(jnp.any(layer.bias[...]) for layer in biases)


def test_norm_settings_are_the_rows():
    settings = {
        name: (norm.eps, norm.momentum)
        for name in ("mobilenet_v3_small", "mobilenetv3_small_100", "tf_mobilenetv3_small_100")
        if (norm := abstract_model(name).blocks[3].conv.norm)
    }
    assert list(settings.values()) == [(1e-3, 0.01), (1e-5, 0.1), (1e-3, 0.1)]


def test_a_group_norm_takes_no_settings_of_a_batch_norm():
    model: Any = fb.create_model(
        "mobilenet_v3_small",
        inverted_residual_setting=[(3, 32, 32, True, "relu", 2)],
        norm_layer="group_norm",
        width_mult=2.0,
    )
    model.eval()
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(model, x).shape == (1, 1000)
    assert model.blocks[0].conv.norm.num_groups == 32
