"""MobileNetV2 by the numbers: published counts, arguments, errors, feature access."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models import FeatureExtractor, MobileNetV2
from flaxblocks.models.registry import model_entries
from tests.support import output_of, read_facts

FACTS = read_facts("mobilenetv2")
QUIRKS = FACTS["_quirks"]
WIDTHS = [key.removeprefix("MobileNetV2 w") for key in FACTS if key.startswith("MobileNetV2")]


@pytest.mark.parametrize("width", WIDTHS)
def test_published_counts_hold(width):
    facts = FACTS[f"MobileNetV2 w{width}"]
    model = abstract_model("mobilenet_v2", width_mult=float(width))
    assert count_parameters(model) == facts["params"]
    rows = summarize(model, (224, 224))
    assert sum(row.multiply_adds for row in rows) == facts["mult_adds"]
    assert sum(row.parameters for row in rows) == facts["params"]
    assert [row.shape[-1] for row in rows if row.name.startswith("blocks.")] == facts["block_out"]
    assert [block.residual for block in model.blocks] == facts["res"]
    assert model.num_features == facts["last_channel"]
    assert model.stem.conv.out_features == facts["stem"]
    assert len(model.blocks) + 2 == facts["n_features"]
    entries = key_map(model, "torchvision").entries
    assert len(entries) == facts["n_state"]
    whole = sum(math.prod(entry.foreign_shape) for entry in entries)
    assert whole - facts["params"] == facts["buffers"]
    graphdef, state = nnx.split(model)
    run = nnx.eval_shape(
        lambda state, x: nnx.merge(graphdef, state)(x), state, jnp.ones((2, 64, 64, 3))
    )
    assert list(run.shape) == facts["out"]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"round_nearest": 1, "width_mult": 0.75}, QUIRKS["round_nearest=1 w=0.75 params"]),
        ({"round_nearest": 1, "width_mult": 1.4}, QUIRKS["round_nearest=1 w=1.4 params"]),
        ({"num_classes": 10}, QUIRKS["num_classes=10"]),
    ],
)
def test_other_published_counts_hold(config, count):
    assert count_parameters(abstract_model("mobilenet_v2", **config)) == count


def test_half_a_channel_of_an_expansion_is_rounded():
    block = fb.blocks.InvertedResidual(17, 8, expansion=1.5, rngs=nnx.Rngs(0))
    assert block.conv.conv.out_features == QUIRKS["expand float 1.5 hidden"]


def test_in_channels_reach_the_stem_alone():
    entries = key_map(abstract_model("mobilenet_v2", in_channels=1), "torchvision").entries
    shapes = {entry.foreign: list(entry.foreign_shape) for entry in entries}
    assert shapes == FACTS["MobileNetV2 w1.0"]["state"] | {"features.0.0.weight": [32, 1, 3, 3]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"inverted_residual_setting": []}, "`inverted_residual_setting`.*at least one row"),
        (
            {"inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2]]},
            r"row \[6, 24, 2\]: each must be \(expansion, channels, repeats, stride\)",
        ),
        ({"inverted_residual_setting": [[1, 16, 1, 3]]}, "stride 3 in row.*1 or 2"),
        ({"inverted_residual_setting": [[1, 16, 0, 1]]}, "every number must be positive"),
        ({"inverted_residual_setting": [[1, 0, 1, 1]]}, "every number must be positive"),
        ({"width_mult": 0.0}, r"`width_mult` \(=0.0\) must be positive"),
        ({"depth_mult": -1.0}, r"`depth_mult` \(=-1.0\) must be positive"),
        ({"dropout": 1.5}, r"=1.5\) must be a probability"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\)"),
        ({"num_classes": True}, r"`num_classes` \(=True\)"),
        ({"in_channels": 0}, r"`in_channels` \(=0\)"),
        ({"round_nearest": 0}, r"\(=0\) must be an integer of at least 1"),
        ({"norm_layer": "batchnorm"}, r"`norm_layer` \(='batchnorm'\) must be one of"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("mobilenet_v2", **config)


def test_an_image_of_the_wrong_layout_is_named():
    model = fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2)
    with pytest.raises(ValueError, match="looks like PyTorch's NCHW"):
        model.stem.conv(jnp.zeros((1, 3, 32, 32)))


def test_training_on_one_value_per_channel_is_an_error():
    model = fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2)
    run = nnx.jit(lambda model, x: model(x))
    with pytest.raises(ValueError, match="1 value per channel"):
        run(model, jnp.zeros((1, 32, 32, 3)))
    model.eval()
    assert run(model, jnp.zeros((1, 32, 32, 3))).shape == (1, 2)


def test_features():
    model = fb.create_model(
        "mobilenet_v2", width_mult=0.25, features_only=True, out_indices=(1, -1)
    )
    model.eval()
    assert output_of(model, (65, 33)) == [(2, 17, 9, 8), (2, 3, 2, 80)]
    assert model.feature_info.channels() == [8, 80]
    assert model.feature_info.reduction() == [4, 32]
    assert [feature.module for feature in model.feature_info] == ["blocks.2", "blocks.16"]
    assert model.backbone.head is None


def test_features_stop_at_the_last_map():
    model = fb.create_model("mobilenet_v2", width_mult=0.25, features_only=True, out_indices=[2])
    assert len(model.backbone.blocks) == 6
    assert model.backbone.head_conv is None


def test_features_come_finest_first_whatever_the_order_asked_for():
    asked, sorted_ = (
        fb.create_model("mobilenet_v2", width_mult=0.25, features_only=True, out_indices=indices)
        for indices in ((-1, 1, 1), (1, 4))
    )
    assert asked.feature_info == sorted_.feature_info
    assert output_of(asked) == output_of(sorted_)


def test_reductions_count_a_stride_of_the_first_block():
    model = abstract_model("mobilenet_v2", inverted_residual_setting=[[1, 16, 1, 2], [6, 24, 1, 2]])
    assert model.feature_info.module_name() == ["stem", "blocks.0", "blocks.1"]
    assert model.feature_info.reduction() == [2, 4, 8]
    assert model.feature_info.channels() == [32, 16, 24]


def test_nothing_runs_after_the_last_map_that_is_asked_for():
    model = fb.create_model("mobilenet_v2", width_mult=0.25)
    model.head_conv = None
    model.blocks[6] = None  # the first of the next stage
    model.eval()
    maps = jax.eval_shape(
        lambda x: model.forward_intermediates(x, (0, 2)), jnp.ones((1, 40, 40, 3))
    )
    assert len(maps) == 2


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_a_feature_extractor_has_its_models_names(layout):
    model = fb.create_model("mobilenet_v2", width_mult=0.25)
    whole = fb.to_torch(model, layout)
    state = fb.to_torch(FeatureExtractor(model, [-1]), layout)
    assert list(state) == [
        key for key in whole if not key.startswith(("features.18", "conv_head", "bn2", "classif"))
    ]
    assert all(np.array_equal(value, whole[key]) for key, value in state.items())


@pytest.mark.parametrize("indices", [(5,), (-6,), (), 1, (1.5,), ("a",), (True,)])
def test_features_that_are_not_there_are_named(indices):
    with pytest.raises(ValueError, match=r"`out_indices`.*5 feature maps"):
        fb.create_model("mobilenet_v2", width_mult=0.25, features_only=True, out_indices=indices)
    with pytest.raises(ValueError, match="needs `features_only=True`"):
        fb.create_model("mobilenet_v2", width_mult=0.25, out_indices=indices)


def test_pooled_features_and_pre_logits_are_the_same():
    small: dict[str, Any] = {"inverted_residual_setting": [[1, 16, 1, 1], [2, 24, 1, 2]]}
    model = fb.create_model("mobilenet_v2", **small)
    pooled = fb.create_model("mobilenet_v2", **small, num_classes=0)
    model.eval()
    pooled.eval()
    x = jax.random.normal(jax.random.key(0), (2, 40, 33, 3))
    features = model.forward_features(x)
    assert features.shape == (2, 10, 9, 1280)
    wanted = model.forward_head(features, pre_logits=True)
    np.testing.assert_array_equal(pooled(x), wanted)
    np.testing.assert_array_equal(model(x), model.head(wanted))


def test_own_block_and_norm():
    built = []

    def block(in_features, out_features, **options):
        built.append((in_features, out_features, options["stride"], options["expansion"]))
        return fb.blocks.ConvNormAct(
            in_features,
            out_features,
            3,
            stride=options["stride"],
            norm=options["norm"],
            rngs=options["rngs"],
        )

    model = fb.create_model("mobilenet_v2", block=block, norm_layer=None, num_classes=3)
    assert built[:3] == [(32, 16, 1, 1), (16, 24, 2, 6), (24, 24, 1, 6)]
    assert not jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    keys = list(fb.to_torch(model))
    assert keys[:3] == ["features.0.0.weight", "features.1.0.weight", "features.1.0.bias"]


def test_bfloat16_computes_narrow_and_keeps_parameters_and_statistics_wide():
    small: dict[str, Any] = {
        "inverted_residual_setting": [[1, 16, 1, 1], [2, 24, 1, 2]],
        "num_classes": 3,
    }
    model = fb.create_model("mobilenet_v2", **small, dtype=jnp.bfloat16)
    y = nnx.jit(lambda model, x: model(x))(model, jnp.ones((2, 40, 40, 3)))
    assert y.dtype == jnp.bfloat16
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}
    assert dtypes == {jnp.dtype("float32")}
    assert model.stem.norm.mean.dtype == model.stem.norm.var.dtype == jnp.float32
    assert np.isfinite(np.asarray(model.stem.norm.mean[...])).all()


def test_dropout_is_on_in_training_only():
    model = fb.create_model("mobilenet_v2", width_mult=0.25, dropout=0.5, num_classes=0)
    features = jnp.ones((2, 2, 2, 1280))
    dropped = model.forward_head(features)
    assert 0.4 < float((dropped == 0).mean()) < 0.6
    model.eval()
    np.testing.assert_array_equal(model.forward_head(features), jnp.ones((2, 1280)))


def test_dropout_is_each_librarys_unless_given():
    rows = [entry.name for entry in model_entries() if entry.build is MobileNetV2]
    rates = {name: abstract_model(name).dropout.rate for name in rows}
    assert rates.pop("mobilenet_v2") == 0.2  # torchvision's
    assert set(rates.values()) == {0.0}  # timm's


def test_parameters_are_drawn_as_torchvision_draws_them():
    model = fb.create_model("mobilenet_v2")
    head = model.head
    np.testing.assert_array_equal(head.bias[...], 0)
    assert abs(float(head.kernel[...].std()) / 0.01 - 1) < 0.01  # 1,280,000 values: 0.06% each
    for conv in (model.head_conv.conv, model.blocks[16].conv.conv):
        kernel = conv.kernel[...]
        fan_out = kernel[..., 0, 0].size * conv.out_features
        # 8,640 values or more: the deviation's own is 0.8% at most
        assert abs(float(kernel.std()) / (2 / fan_out) ** 0.5 - 1) < 0.04
