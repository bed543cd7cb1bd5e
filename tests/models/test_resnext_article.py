"""The article's ResNeXt: its keys, the paper's strides, how torchvision's network is within it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models import ResNeXtArticle
from flaxblocks.parity import relative_error
from flaxblocks.parity.calibration import calibrate
from tests.support import train_both
from torch_ref.models import ResNeXtArticle as Twin

SMALL = {"block_repeats": [(8, 2), (16, 1)], "cardinality": 4, "num_classes": 5}
BIASES = ["stem", *(f"blocks.{i}.shortcut" for i in (0, 3, 7, 13))]


def stages(model) -> list[tuple[int, ...]]:
    """The shape behind each stage, at 224x224."""
    shapes = {row.name: row.shape for row in summarize(model, (224, 224))}
    ends = np.cumsum(model.depths) - 1
    return [shapes["stem"], shapes["pool"], *(shapes[f"blocks.{i}"] for i in ends)]


def test_the_articles_strides_and_the_papers():
    stem = [(112, 112, 64), (56, 56, 64)]
    widths = (256, 512, 1024, 2048)
    article = abstract_model("resnext50_article")
    sides = zip((28, 14, 7, 4), widths, strict=True)
    assert stages(article) == [*stem, *((side, side, width) for side, width in sides)]
    paper = abstract_model("resnext50_article", paper_strides=True)
    sides = zip((56, 28, 14, 7), widths, strict=True)
    assert stages(paper) == [*stem, *((side, side, width) for side, width in sides)]
    assert sum(row.multiply_adds for row in summarize(paper, (224, 224))) == 4_232_857_192
    assert count_parameters(paper) == count_parameters(article) == 25_032_808
    assert article.feature_info.module_name()[:3] == ["stem", "pool", "blocks.2"]
    assert article.feature_info.reduction() == [2, 4, 8, 16, 32, 64]
    assert paper.feature_info.module_name()[:2] == ["stem", "blocks.2"]
    assert paper.feature_info.reduction() == [2, 4, 8, 16, 32]


def test_the_state_dict_is_the_articles():
    state = fb.to_torch(fb.create_model("resnext50_article"))
    assert len(state) == 325
    convolutions = {key.rpartition(".")[0] for key, a in state.items() if a.ndim == 4}
    assert [key for key in state if key.endswith(".bias") and key[:-5] in convolutions] == [
        "conv1.0.bias",
        *(f"conv{stage}_blocks.0.shortcut.0.bias" for stage in (2, 3, 4, 5)),
    ]
    shapes = {
        "conv1.0.weight": (64, 3, 7, 7),
        "conv2_blocks.0.residual.3.weight": (128, 4, 3, 3),
        "conv5_blocks.0.shortcut.0.weight": (2048, 1024, 1, 1),
        "conv5_blocks.2.residual.7.running_var": (2048,),
        "classifier.weight": (1000, 2048),
    }
    assert {key: state[key].shape for key in shapes} == shapes
    statistics = sum(a.size for key, a in state.items() if "running" in key or "num_b" in key)
    assert statistics == 68_277


def test_classes_are_the_callers():
    # The article's class takes the number and builds 1000 all the same.
    assert count_parameters(abstract_model("resnext50_article", num_classes=10)) == (
        25_032_808 - 990 * 2049
    )


@pytest.mark.parametrize("zero_init_last", [False, True])
def test_a_branch_starts_at_zero_where_that_is_asked_for(zero_init_last):
    model = ResNeXtArticle(**SMALL, zero_init_last=zero_init_last, rngs=nnx.Rngs(0))
    twin = Twin(**SMALL, zero_init_last=zero_init_last)
    last = [f"conv{k}_blocks.{i}.residual.7.weight" for k, i in ((2, 0), (2, 1), (3, 0))]
    state, twins = fb.to_torch(model), twin.state_dict()
    for key in twins:
        if key.endswith("weight") and twins[key].ndim == 1:
            expected = 0 if zero_init_last and key in last else 1
            assert (state[key] == expected).all(), key
            assert (twins[key] == expected).all(), key
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 16)), jnp.float32)
    assert bool((model.blocks[1](x) == nnx.relu(x)).all()) == zero_init_last


def test_it_starts_as_pytorch_does():
    model = fb.create_model("resnext50_article", num_classes=10, rngs=1)
    layer = model.blocks[-1].conv.conv
    # 294,912 draws: a deviation is off by 1.3e-3
    assert float(layer.kernel[...].std()) == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.02)
    bound = 147**-0.5  # of 7 * 7 * 3 inputs; 64 draws reach nine tenths of it
    assert 0.9 * bound < float(jnp.abs(model.stem.conv.bias[...]).max()) <= bound
    assert 0.9 * 2048**-0.5 < float(jnp.abs(model.head.kernel[...]).max()) <= 2048**-0.5


def test_the_articles_weights_become_torchvisions_by_folding_five_biases():
    from torchvision.models import resnext50_32x4d

    twin = Twin(num_classes=7, paper_strides=True).double()
    calibrate(twin, (4, 3, 64, 64))
    with jax.enable_x64():
        options = {"num_classes": 7, "param_dtype": jnp.float64}
        article = fb.create_model(
            "resnext50_article", weights=twin.state_dict(), paper_strides=True, **options
        )
        # Of our names both networks have the same, but for the biases: norm(x + b) with mean m is
        # norm(x) with mean m - b.
        arrays = fb.to_torch(article, "flax")
        for path in BIASES:
            arrays[f"{path}.norm.mean"] -= arrays.pop(f"{path}.conv.bias")
        model = fb.create_model("resnext50_32x4d", **options)
        fb.load_torch(model, arrays, layout="flax")
        state = fb.to_torch(model, "torchvision")
    oracle = resnext50_32x4d(num_classes=7).double()
    oracle.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 65, 47)))
    with torch.no_grad():
        theirs, ours = oracle.eval()(x).numpy(), twin.eval()(x).numpy()
    assert relative_error(ours, theirs) <= 1e-12
    article.eval()
    with jax.enable_x64():
        images = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
        logits = nnx.jit(lambda model, x: model(x))(article, images)
    assert relative_error(np.asarray(logits), theirs) <= 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {"paper_strides": True},
        {"expansion": 4, "in_channels": 2},
        {"block_repeats": [(32, 1)], "cardinality": 8, "norm_layer": "group_norm"},
    ],
)
def test_every_argument_is_the_twins(options):
    twin = Twin(**{**SMALL, **options})
    model = ResNeXtArticle(**{**SMALL, **options}, rngs=nnx.Rngs(0))
    calibrate(twin, (4, model.in_channels, 64, 64))
    fb.load_torch(model, twin.state_dict())
    x = np.random.default_rng(0).normal(size=(2, 65, 47, model.in_channels))
    report = fb.parity.compare(model, twin, x, float32=False)
    assert report.first_departure is None, str(report)  # 1e-12 at every module


def test_a_small_one_follows_ten_optimiser_steps():
    # The 50 layers amplify rounding: PyTorch departs from itself by 0.09 under SGD where weights
    # are off by 4e-16.
    twin = Twin(**SMALL)
    calibrate(twin, (4, 3, 64, 64))
    model = ResNeXtArticle(**SMALL, rngs=nnx.Rngs(0))
    fb.load_torch(model, twin.state_dict())
    x = np.random.default_rng(0).normal(size=(8, 65, 47, 3))
    errors = train_both(model, twin, x, "article", pace=0.1)
    assert max(errors.values()) <= 1e-8, errors  # parameters and buffers, float64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"block_repeats": []}, r"`block_repeats` \(=\[\]\) must have at least one row"),
        ({"block_repeats": [(128, 3), (256,)]}, r"row \(256,\): each must be 2 integers"),
        ({"block_repeats": [(128, 0)]}, r"row \(128, 0\): each must be 2 integers of at least 1"),
        ({"block_repeats": [(128.0, 3)]}, r"row \(128.0, 3\)"),
        ({"block_repeats": [128, 3]}, r"row 128"),
        ({"cardinality": 33}, r"width 128: it must be divisible by `cardinality` \(=33\)"),
        ({"cardinality": 0}, r"`cardinality` \(=0\) must be an integer of at least 1"),
        ({"expansion": 0}, r"`expansion` \(=0\)"),
        ({"dropout": 2.0}, r"`dropout` \(=2.0\) must be a probability"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\)"),
        ({"in_channels": 0}, r"`in_channels` \(=0\)"),
        ({"norm_layer": "batchnorm"}, r"`norm_layer` \(='batchnorm'\) must be one of"),
    ],
)
def test_a_wrong_argument_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model("resnext50_article", **config)
