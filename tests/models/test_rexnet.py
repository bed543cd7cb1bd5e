"""ReXNet and ReXNet-lite by the numbers: published counts, names, arguments, initialisation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.blocks import RexBottleneck, SqueezeExcite
from flaxblocks.convert.keymap import key_map
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models.registry import model_entries
from flaxblocks.models.rexnet import linear_widths
from flaxblocks.nn.activation import silu
from flaxblocks.parity.calibration import calibrate
from tests.support import read_facts
from torch_ref.models import rexnet as torch_rexnet

FACTS = read_facts("rexnet")
V1, LITE = "rexnet_100", "rexnet_lite_100"
WIDTHS = {
    name: (LITE if "lite" in name else V1, float(name.rsplit("x", 1)[1]))
    for name in FACTS
    if name.startswith("ReXNetV1") and " x" in name
}
ARGUMENTS = {
    "ReXNetV1 use_se=False": (V1, {"use_se": False}),
    "ReXNetV1 classes=10": (V1, {"num_classes": 10}),
    "ReXNetV1 se_ratio=4": (V1, {"se_ratio": 4}),
    "ReXNetV1 width 0.5": (V1, {"width_mult": 0.5}),
    "ReXNetV1 width 0.75": (V1, {"width_mult": 0.75}),
    "ReXNetV1 final_ch=164": (V1, {"final_features": 164}),
    "ReXNetV1 input_ch=27": (V1, {"input_features": 27}),
    "lite fix_head_stem x2": (LITE, {"fix_head_stem": True, "width_mult": 2.0}),
    "lite fix_head_stem x1.3": (LITE, {"fix_head_stem": True, "width_mult": 1.3}),
    "lite x0.5": (LITE, {"width_mult": 0.5}),
    "lite kernel 353535": (LITE, {"kernel_sizes": (3, 5, 3, 5, 3, 5)}),
    "lite divisible 1": (LITE, {"round_nearest": 1}),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_published_numbers_hold(name):
    facts = FACTS[name]
    row, width = WIDTHS[name]
    model = abstract_model(row, width_mult=width)
    assert count_parameters(model) == facts["params"]
    rows = summarize(model, (224, 224))
    assert sum(row.multiply_adds for row in rows) == facts["mult_adds_b1"]
    shapes = [list(row.shape) for row in rows if row.name.startswith("blocks.")]
    assert shapes == [[h, w, c] for _, (_, c, h, w) in facts["stage_shapes"]]
    assert model.stem.conv.out_features == facts["stem"]
    assert model.num_features == facts["pen"]
    assert [block.in_features for block in model.blocks] == facts["in_ch"]
    assert [block.residual for block in model.blocks] == facts["shortcut"]
    if "se_hidden" in facts:
        gates = [block.squeeze_excite for block in model.blocks]
        widths = [0 if gate is None else gate.reduce.out_features for gate in gates]
        assert widths == facts["se_hidden"]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_published_numbers_of_other_arguments_hold(name):
    row, config = ARGUMENTS[name]
    model = abstract_model(row, **config)
    facts = FACTS[name]
    assert count_parameters(model) == facts["params"]
    assert model.num_features == facts.get("pen", model.num_features)
    assert model.stem.conv.out_features == facts["stem"]
    assert [block.out_features for block in model.blocks] == facts.get(
        "out_ch", [block.out_features for block in model.blocks]
    )


@pytest.mark.parametrize(("row", "facts"), [(V1, "V1 x1.0"), (LITE, "V1_lite x1.0")])
@pytest.mark.parametrize("layout", ["official", "article"])
def test_names_are_the_official_releases(row, facts, layout):
    entries = key_map(abstract_model(row), layout).entries
    assert [(entry.foreign, list(entry.foreign_shape)) for entry in entries] == list(
        FACTS[f"ReXNet{facts}"]["state"].items()
    )


def test_names_are_timms_for_the_official_ones():
    model = abstract_model(V1)
    pairs = zip(key_map(model, "official").entries, key_map(model, "timm").entries, strict=True)
    assert [
        [ours.foreign, timms.foreign, list(ours.foreign_shape), list(timms.foreign_shape)]
        for ours, timms in pairs
    ] == FACTS["ReXNetV1 x1.0"]["key_map"]


@pytest.mark.parametrize(
    ("source", "row", "layout"), [("timm", V1, "timm"), ("official", "rexnet_090", "official")]
)
def test_a_row_is_saved_as_its_publisher_lays_it_out(source, row, layout):
    entry = next(entry for entry in model_entries() if entry.name == row)
    assert (entry.source, entry.layout) == (source, layout)


def test_halves_are_rounded_to_even():
    assert linear_widths(54.5, 1, 3, 1.0, 1) == [54, 56, 56]  # 54.5, 55.5, 56.5
    assert linear_widths(16, 10, 2, 0.5, 1) == [16, 21]  # the first one is never narrowed
    assert linear_widths(16, 11, 3, 1.0, 8) == [16, 32, 40]  # 27 -> 24 would lose more than 10%


@pytest.mark.parametrize("depth_mult", [0.5, 1.2, 2.0])
def test_depth_is_rounded_up_and_the_widths_share_it(depth_mult):
    model = abstract_model("rexnet_090", depth_mult=depth_mult)
    with torch.device("meta"):
        twin = torch_rexnet.ReXNet(width_mult=0.9, depth_mult=depth_mult)
    assert model.depths == tuple(int(np.ceil(n * depth_mult)) for n in (1, 2, 2, 3, 3, 5))
    entries = key_map(model, "official").entries
    assert [(entry.foreign, entry.foreign_shape) for entry in entries] == [
        (key, tuple(value.shape)) for key, value in twin.state_dict().items()
    ]


def rex_gate(reduction: int) -> Any:
    return partial(SqueezeExcite, reduction=reduction, norm="batch_norm")


@pytest.mark.parametrize(
    ("widths", "ours", "twins"),
    [
        ((6, 8), {"squeeze_excite": rex_gate(12)}, {"squeezed_features": 3}),
        ((6, 6), {"expansion": 1, "kernel_size": 5}, {"expansion": 1, "kernel_size": 5}),
        ((8, 6), {"expansion": 2}, {"expansion": 2}),
        (
            (6, 8),
            {"stride": 2, "activation": "relu6"},
            {"stride": 2, "activation": torch.nn.ReLU6},
        ),
    ],
)
def test_block_agrees_with_its_twin_in_training_too(widths, ours, twins):
    twin = torch_rexnet.RexBottleneck(*widths, **twins)
    calibrate(twin, (4, widths[0], 9, 7))
    block = RexBottleneck(*widths, **ours, rngs=nnx.Rngs(0))
    fb.load_torch(block, twin.state_dict())
    x = np.random.default_rng(0).standard_normal((8, 9, 7, widths[0]))
    for train in (False, True):
        report = fb.parity.compare(block, twin, x, "official", train=train, grad=True)
        assert report.ok, report.summary()  # 1e-12; gradients 1e-10
    assert list(fb.to_torch(block)) == list(twin.state_dict())


def test_the_input_is_added_to_the_first_channels():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))

    def output(out_features, **options):
        block = RexBottleneck(3, out_features, **options, rngs=nnx.Rngs(0))
        block.eval()
        block.project.conv.kernel.set_value(jnp.zeros_like(block.project.conv.kernel[...]))
        return block(x)

    y = output(5)
    np.testing.assert_array_equal(y[..., :3], x)
    np.testing.assert_array_equal(y[..., 3:], 0)
    np.testing.assert_array_equal(output(3), x)
    np.testing.assert_array_equal(output(2), 0)  # a block that narrows has no skip
    np.testing.assert_array_equal(output(5, stride=2), 0)


def test_silu_has_the_derivatives_of_the_release():
    """Its backward pass is gradient * s(1 + x(1 - s)); JAX derives its own."""
    ends = [1e30, -1e30, 1e308, -1e308, 800.0, -745.0, 0.0]
    points = np.concatenate([np.linspace(-40, 40, 4001), ends])
    x = torch.tensor(points, requires_grad=True)
    y: Any = torch_rexnet.SiLUFunction.apply(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    with jax.enable_x64(True):
        slopes = (jax.grad(silu), jax.grad(jax.grad(silu)))
        ours = [np.asarray(jax.vmap(f)(jnp.asarray(points))) for f in slopes]
    for a, b in zip(ours, (slope.detach(), curvature), strict=True):
        assert np.isfinite(a).all()
        # Both are of the order of 1: a few roundings of 1.1e-16 in 1 + x(1 - s).
        assert np.abs(a - b.numpy()).max() <= 2e-15


def test_stochastic_depth_grows_as_timms():
    model = abstract_model(V1, stochastic_depth=0.3)
    rates = [block.stochastic_depth for block in model.blocks]
    assert [None if rate is None else rate.rate for rate in rates] == [
        0.3 * i / 15 if residual else None
        for i, residual in enumerate(FACTS["ReXNetV1 x1.0"]["shortcut"])
    ]


@pytest.mark.parametrize("row", [V1, LITE])
def test_settings_of_the_norms_reach_every_one(row):
    model = abstract_model(row, norm_eps=1e-3, norm_momentum=0.5)
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, fb.nn.BatchNorm)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.5)}
    plain = abstract_model(row)
    assert (plain.stem.norm.eps, plain.stem.norm.momentum) == (1e-5, 0.1)
    assert not jax.tree.leaves(nnx.state(abstract_model(row, norm_layer=None), nnx.BatchStat))


def test_dropout_is_each_publishers():
    for row in (V1, LITE, "rexnetr_100", "rexnet_090"):
        assert abstract_model(row).dropout.rate == 0.2  # timm sets it for this family too


def deviation(kernel: nnx.Param) -> float:
    return float(kernel[...].std())


def test_timms_rows_are_drawn_as_timm_draws_them():
    model = fb.create_model(V1)
    block = model.blocks[15]
    cases = [  # each of 9,000 values or more: the deviation's own is 0.8% at most
        (block.conv.conv.kernel, (2 / 9) ** 0.5),  # depthwise: the taps of one channel
        (block.expand.conv.kernel, (2 / 1044) ** 0.5),
        (block.squeeze_excite.reduce.kernel, (2 / 87) ** 0.5),
        (model.head_conv.conv.kernel, (2 / 1280) ** 0.5),
        (model.head.kernel, (3 * 1000) ** -0.5),  # uniform in +-1000^-1/2
    ]
    for kernel, wanted in cases:
        assert abs(deviation(kernel) / wanted - 1) < 0.04
    for bias in (
        model.head.bias,
        block.squeeze_excite.reduce.bias,
        block.squeeze_excite.expand.bias,
    ):
        np.testing.assert_array_equal(bias[...], 0)


@pytest.mark.parametrize("row", ["rexnet_090", LITE])
def test_official_rows_are_drawn_as_pytorch_draws_them(row):
    model = fb.create_model(row)
    block = model.blocks[15]
    for layer, fan_in in (
        (block.conv.conv, 9),
        (block.expand.conv, block.in_features),
        (model.head_conv.conv, block.out_features),
        (model.head, model.head_features),
    ):
        # uniform in +-fan_in^-1/2
        assert abs(deviation(layer.kernel) / (3 * fan_in) ** -0.5 - 1) < 0.04
    assert 0 < float(jnp.abs(model.head.bias[...]).max()) <= model.head_features**-0.5


def test_lite_has_a_hidden_layer_after_pooling():
    model = fb.create_model(LITE, num_classes=3, width_mult=0.5)
    model.eval()
    features = jax.random.normal(jax.random.key(0), (2, 2, 3, model.num_features))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_features) == (2, 1024)
    embedding = model.embedding
    mean = features.mean((1, 2))[:, None, None]
    wanted = jnp.clip(embedding.norm(embedding.conv(mean)), 0, 6)[:, 0, 0]
    np.testing.assert_allclose(hidden, wanted, rtol=0, atol=1e-6)  # float32 roundings of 6e-8
    assert float(hidden.min()) == 0 < float(hidden.max())
    np.testing.assert_array_equal(model.forward_head(features), model.head(hidden))


@pytest.mark.parametrize("row", [V1, LITE])
def test_features_leave_out_what_follows_them(row):
    model = fb.create_model(row, width_mult=0.5, features_only=True, out_indices=(1, -1))
    assert model.feature_info.module_name() == ["blocks.2", "blocks.15"]
    names = {path[1] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert names == {"stem", "blocks"}


@pytest.mark.parametrize("row", [V1, LITE])
def test_training_on_one_image_is_an_error(row):
    """One image has one mean a channel: what is normalised behind pooling has no variance."""
    model = abstract_model(row)

    def output(images: int):
        graphdef, state = nnx.split(model)
        image = jax.ShapeDtypeStruct((images, 64, 64, 3), jnp.float32)
        return jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, image).shape

    with pytest.raises(ValueError, match="1 value per channel"):
        output(1)
    assert output(2) == (2, 1000)
    model.eval()
    assert output(1) == (1, 1000)


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        (V1, {"input_features": 0}, r"`input_features` \(=0\)"),
        (V1, {"final_features": -1}, r"`final_features` \(=-1\) must be positive"),
        (V1, {"width_mult": 0.0}, r"`width_mult` \(=0.0\) must be positive"),
        (V1, {"depth_mult": float("nan")}, r"`depth_mult` \(=nan\) must be a finite number"),
        (V1, {"round_nearest": 0}, r"`round_nearest` \(=0\)"),
        (V1, {"se_ratio": 0}, r"`se_ratio` \(=0\)"),
        (V1, {"se_ratio": 1000}, r"`se_ratio` \(=1000\) leaves no channel of a block's 228"),
        (V1, {"initialization": "torch"}, r"`initialization` \(='torch'\) must be one of"),
        (V1, {"norm_layer": "batchnorm"}, r"`norm_layer` \(='batchnorm'\)"),
        (V1, {"stochastic_depth": 2.0}, r"`stochastic_depth` \(=2.0\)"),
        (LITE, {"width_mult": -1.0}, r"`width_mult` \(=-1.0\) must be positive"),
        (LITE, {"kernel_sizes": (3, 5)}, r"`kernel_sizes` \(=\(3, 5\)\) must have 6 numbers"),
        (LITE, {"kernel_sizes": (3, 5, 3, 5, 3, 0)}, r"`kernel_size` \(=0\)"),
        (LITE, {"dropout": 1.5}, r"`dropout` \(=1.5\)"),
        (LITE, {"num_classes": -1}, r"`num_classes` \(=-1\)"),
    ],
)
def test_a_wrong_argument_is_named(row, config, message):
    with pytest.raises(ValueError, match=message):
        abstract_model(row, **config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stride": 0}, r"`stride` \(=0\)"),
        ({"expansion": 0.1}, r"`expansion` \(=0.1\) leaves no channel of `in_features` \(=4\)"),
        ({"depthwise_activation": "relu7"}, r"`depthwise_activation` \(='relu7'\)"),
        ({"squeeze_excite": 25}, r"`reduction` \(=25\) leaves no channel of `features` \(=24\)"),
    ],
)
def test_a_wrong_argument_of_the_block_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        RexBottleneck(4, 6, **config, rngs=nnx.Rngs(0))
