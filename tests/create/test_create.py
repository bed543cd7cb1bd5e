"""`create_model`, the registry, and inference."""

import subprocess
import sys
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torchvision.models import ResNet18_Weights

import flaxblocks as fb
from flaxblocks.models.registry import ModelEntry, model_entries, register
from flaxblocks.nn import init

SMALL: dict[str, Any] = {  # four blocks for seventeen
    "width_mult": 0.25,
    "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]],
}


@pytest.fixture(scope="module")
def weights():
    return fb.to_torch(fb.create_model("mobilenet_v2", num_classes=5, rngs=7, **SMALL))


def test_names_of_both_libraries_resolve():
    assert "mobilenet_v2" in fb.list_models("mobilenet_v*")
    assert "mobilenetv2_100" in fb.list_models()
    assert fb.list_models() == sorted(fb.list_models())
    assert type(fb.create_model("mobilenetv2_100", num_classes=2)) is type(
        fb.create_model("mobilenet_v2", num_classes=2, **SMALL)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mobilenet_v9"}, "unknown model 'mobilenet_v9': did you mean 'mobilenet_v"),
        ({"name": "zzz"}, r"unknown model 'zzz': the known ones are .* and \d+ more"),
        (
            {"name": "resnext50"},
            "unknown model 'resnext50': did you mean 'resnext50_32x4d' or 'resnext50_article' or",
        ),
        ({"name": ""}, "unknown model '': the known ones are "),
        ({"width_mul": 1}, "takes no argument `width_mul`: did you mean 'width_mult'"),
        ({"name": None}, "unknown model None"),
        ({"pretrained": True}, r"no argument `pretrained`: did you mean weights=\"DEFAULT\"\?"),
        (
            {"weights": "IMAGENET1K_V9"},
            r"`weights` \(='IMAGENET1K_V9'\) is neither a file nor published weights: .*_V2",
        ),
        ({"name": "hf-hub:timm/resnet50.a1_in1k"}, "'resnet50' with weights='a1_in1k'"),
        ({"name": "resnet18", "drop_path_rate": 0.1}, "did you mean stochastic_depth"),
        ({"name": "mobilenetv1_100", "drop_path_rate": 0.1}, "the known ones are"),
        ({"name": "resnet18", "depths": (2, -1, 2, 2)}, r"`depths` \(=-1\) must be an integer"),
        (
            {"name": "resnet18", "depths": (2, 2, 2)},
            r"\(=\(2, 2, 2\)\) must be 4 integers",
        ),
        (
            {"name": "resnet18", "squeeze_excite": 0.0},
            r"`squeeze_excite` \(=0.0\) must be pos",
        ),
        ({"name": "mnasnet_small", "norm_eps": -2}, r"`norm_eps` \(=-2\) must be positive"),
        ({"name": "mnasnet_small", "norm_momentum": 5}, r"`norm_momentum` \(=5\)"),
        ({"width_mult": "1"}, r"`width_mult` \(='1'\) must be a finite number"),
        ({"dropout": "0.2"}, r"`dropout` \(='0.2'\) must be a probability"),
        ({"dtype": "int32"}, r"`dtype` \(='int32'\) must be a floating-point type"),
        ({"param_dtype": "float33"}, r"`param_dtype` \(='float33'\) must be a floating-point"),
        ({"weights": True}, r'`weights` \(=True\): did you mean "DEFAULT"'),
        ({"weights": ResNet18_Weights.DEFAULT}, "must be of the model 'mobilenet_v2'"),
        ({"weights": "nowhere/x.pth"}, r"nowhere/x\.pth"),
        ({"weights": "x.safetensors"}, r"x\.safetensors"),
        ({"weights": "nowhere/x"}, "nowhere/x cannot be read"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model(**{"name": "mobilenet_v2", **arguments})


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'mobilenetv2_100' is taken by 'mobilenet_v2'"):
        register(
            ModelEntry(name="new", build=nnx.Module, source="timm", aliases=("mobilenetv2_100",))
        )
    assert "new" not in fb.list_models()
    assert "new" not in [entry.name for entry in model_entries()]


def test_the_same_seed_gives_the_same_weights_and_another_others():
    a, b, c = (fb.create_model("mobilenet_v2", rngs=seed, **SMALL) for seed in (0, 0, 1))
    kernels = [np.asarray(model.blocks[3].project.conv.kernel[...]) for model in (a, b, c)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    d = fb.create_model("mobilenet_v2", rngs=nnx.Rngs(0), **SMALL)
    np.testing.assert_array_equal(d.blocks[3].project.conv.kernel[...], kernels[0])


@pytest.mark.parametrize(
    "rngs",
    [0, np.int64(0), jax.random.key(0), nnx.Rngs(0), nnx.Rngs(params=0), nnx.Rngs(default=0)],
)
def test_seeds_keys_and_streams_are_taken(rngs):
    classes: Any = np.int64(3)
    model = fb.create_model("mobilenet_v2", num_classes=classes, rngs=rngs, **SMALL)
    assert model(jnp.ones((2, 32, 32, 3))).shape == (2, 3)


@pytest.mark.parametrize("rngs", [None, "a", 1.5, True, nnx.Rngs(dropout=0)])
def test_what_is_no_seed_is_named(rngs):
    with pytest.raises(ValueError, match="`rngs` "):
        fb.create_model("mobilenet_v2", rngs=rngs, **SMALL)


def test_dropout_draws_from_its_own_stream():
    x = jnp.ones((2, 40, 40, 3))
    one, two = (
        fb.create_model("mobilenet_v2", num_classes=0, rngs=nnx.Rngs(params=0, dropout=d), **SMALL)
        for d in (1, 2)
    )
    np.testing.assert_array_equal(one.stem.conv.kernel[...], two.stem.conv.kernel[...])
    assert not np.array_equal(one(x), two(x))


def test_an_argument_given_wins_over_the_registered_one():
    model = fb.create_model("mobilenetv2_140", width_mult=0.25, dropout=0.5, num_classes=2)
    assert model.stem.conv.out_features == 8
    assert model.dropout.rate == 0.5


def test_the_number_of_classes_is_the_weights_unless_given(weights):
    assert fb.create_model("mobilenet_v2", weights=weights, **SMALL).num_classes == 5
    assert fb.create_model("mobilenet_v2", **SMALL).num_classes == 1000


@pytest.mark.parametrize("layout", ["torchvision", "timm", "flax"])
@pytest.mark.parametrize("classes", [0, 3, 1000])
def test_another_number_of_classes_draws_only_the_head_anew(weights, classes, layout):
    whole = fb.create_model("mobilenet_v2", weights=weights, **SMALL)
    foreign = fb.to_torch(whole, layout)
    model = fb.create_model("mobilenet_v2", weights=foreign, num_classes=classes, rngs=3, **SMALL)
    for key, value in fb.to_torch(model, "torchvision").items():
        if not key.startswith("classifier"):
            np.testing.assert_array_equal(value, weights[key], err_msg=key)
    fresh = fb.create_model("mobilenet_v2", num_classes=classes, rngs=3, **SMALL)
    if classes:
        np.testing.assert_array_equal(model.head.kernel[...], fresh.head.kernel[...])
        assert float(jnp.abs(model.head.kernel[...]).max()) > 0


def test_a_new_head_costs_only_the_head(weights, monkeypatch):
    drawn = []
    chunk = init._chunk
    monkeypatch.setattr(init, "_chunk", lambda *args: drawn.append(args) or chunk(*args))
    model = fb.create_model("mobilenet_v2", weights=weights, num_classes=20, rngs=3, **SMALL)
    assert len(drawn) == -(-model.head.kernel.size // init.CHUNK) > 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_a_loaded_model_draws_on_from_its_own_seed(name):
    options: Any = {"dropout": 0.5, "stochastic_depth": 0.5}
    options |= {"depths": (1, 1, 1, 1)} if name == "resnet18" else SMALL
    fresh = fb.create_model(name, rngs=7, **options)
    weights = fb.to_torch(fresh)
    assert fresh.num_classes == 1000  # as many as there are unless someone says another number
    headless = dict(list(weights.items())[:-2])
    for state, classes in ((weights, None), (weights, 1000), (weights, 3), (headless, 1000)):
        loaded = fb.create_model(name, weights=state, num_classes=classes, rngs=7, **options)
        ours, theirs = (
            {path: np.asarray(jax.random.key_data(variable[...])) for path, variable in streams}
            for streams in (
                nnx.to_flat_state(nnx.state(model, nnx.RngKey)) for model in (loaded, fresh)
            )
        )
        assert len(theirs) > 1
        chex.assert_trees_all_equal(ours, theirs)
        if state is headless:
            np.testing.assert_array_equal(loaded.head.kernel[...], fresh.head.kernel[...])


def test_other_classes_do_not_hide_other_faults(weights):
    short = {key: value for key, value in weights.items() if key != "features.3.conv.3.bias"}
    with pytest.raises(fb.ConversionError, match=r"1 missing: features\.3\.conv\.3\.bias"):
        fb.create_model("mobilenet_v2", weights=short, num_classes=3, **SMALL)


def test_a_loaded_model_has_no_abstract_variable_left_and_trains(weights):
    model = fb.create_model("mobilenet_v2", weights=weights, num_classes=3, **SMALL)
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    first, second = (model(jnp.ones((2, 40, 40, 3))) for _ in range(2))
    assert not np.array_equal(first, second)  # dropout draws anew


def test_float64_runs_in_float64(weights):
    with jax.enable_x64(True):
        model = fb.create_model("mobilenet_v2", weights=weights, param_dtype=jnp.float64, **SMALL)
        assert model(jnp.zeros((2, 40, 40, 3), jnp.float64)).dtype == jnp.float64
        assert model.stem.norm.mean.dtype == jnp.float64


def test_compiled_inference_agrees_with_the_module_and_leaves_it_alone(weights):
    model = fb.create_model("mobilenet_v2", weights=weights, **SMALL)
    state = fb.to_torch(model)
    x = jax.random.normal(jax.random.key(0), (3, 65, 47, 3))
    folded, plain = fb.compile_inference(model), fb.compile_inference(model, fold=False)
    assert not model.stem.norm.use_running_average  # still in training mode
    for key, value in fb.to_torch(model).items():
        np.testing.assert_array_equal(value, state[key])
    model.eval()
    wanted = np.asarray(model(x))
    scale = np.abs(wanted).max()
    # folding reorders some hundred float32 roundings of 6e-8
    np.testing.assert_allclose(folded(x), wanted, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(plain(x), wanted, rtol=0, atol=1e-5 * scale)


def test_folding_takes_in_every_batch_norm_and_keeps_biases_apart(weights):
    model = fb.create_model("mobilenet_v2", weights=weights, **SMALL)
    folded = fb.fold_batch_norm(model)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    with jax.enable_x64(True):
        block = fb.blocks.MBConv(4, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))  # with biases
        x = jax.random.normal(jax.random.key(0), (3, 6, 5, 4), jnp.float64)
        block(x)
        block.eval()
        folded_block = fb.fold_batch_norm(block)
        np.testing.assert_allclose(folded_block(x), block(x), rtol=1e-12, atol=1e-12)


def test_folding_takes_the_norms_own_epsilon():
    norm = partial(fb.nn.BatchNorm, eps=0.5)
    block = fb.blocks.ConvNormAct(4, 8, 3, norm=norm, rngs=nnx.Rngs(0))
    block.eval()
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 4))
    # float32 rounding; PyTorch's 1e-5 would be off by a fifth
    np.testing.assert_allclose(fb.fold_batch_norm(block)(x), block(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "norm",
    [
        partial(fb.nn.BatchNorm, track_running_stats=False),
        partial(fb.nn.GroupNorm, num_groups=2),
        None,
    ],
    ids=["of the batch", "of groups", "none"],
)
def test_norms_without_running_statistics_are_not_folded(norm):
    block = fb.blocks.MBConv(4, 4, norm=norm, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 4))
    block.eval()
    # the same arithmetic, compiled as a whole: float32 rounding
    np.testing.assert_allclose(fb.compile_inference(block)(x), block(x), rtol=0, atol=1e-5)


def test_the_model_is_a_plain_nnx_module(weights):
    model = fb.create_model("mobilenet_v2", weights=weights, **SMALL)
    keys = jax.random.split(jax.random.key(0))
    linen = nnx.bridge.to_linen(type(model), num_classes=2, **SMALL)
    variables = linen.init({"params": keys[0], "dropout": keys[1]}, jnp.ones((2, 40, 40, 3)))
    assert set(variables) >= {"params", "batch_stats"}
    graphdef, state = nnx.split(model)
    assert type(nnx.merge(graphdef, state)) is type(model)


def test_importing_brings_no_torch_and_nothing_slow():
    code = (
        "import sys, flaxblocks; "
        "print([m for m in ('torch', 'PIL', 'click', 'pooch', 'safetensors', 'timm', 'matplotlib') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
