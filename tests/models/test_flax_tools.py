"""Flax's own tools over the registry: what they print is theirs, that they run is ours."""

import io
from contextlib import redirect_stdout
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flaxblocks as fb
from tests.support import by_default, smallest_of_each_family

X = jnp.zeros((1, 64, 96, 3))
WIDE: Any = {"width": 300, "force_terminal": False}  # else names are cut off
FAMILIES = pytest.mark.parametrize("name", [entry.name for entry in smallest_of_each_family()])


def evaluating(name: str, **config: Any) -> Any:
    model = fb.create_model(name, **config)
    model.eval()
    return model


def shape_of(model: Any, x: Any = X) -> Any:
    """Of the output, without a number computed."""
    graphdef, state = nnx.split(model)
    y = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, x)
    return jax.tree.map(lambda leaf: leaf.shape, y)


@pytest.fixture
def _classes_as_they_were():
    """`nnx.tabulate` leaves every inherited method on each class as its own, over which
    `nnx.capture` then falls, for a model of plain Flax too.
    """
    classes = [cls for cls in subclasses(nnx.Module) if cls.__module__.startswith("flaxblocks")]
    own = {cls: set(vars(cls)) for cls in classes}
    yield
    for cls, names in own.items():
        for name in set(vars(cls)) - names:
            delattr(cls, name)


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(below) for below in type.__subclasses__(cls)))


@pytest.mark.usefixtures("_classes_as_they_were")
@by_default("resnet10t", "mobilenetv2_035", "regnet_y_400mf")  # it compiles the model
def test_tabulate_runs_and_leaves_every_model_as_it_was(entry):
    model = evaluating(entry.name)
    table = nnx.tabulate(model, X, console_kwargs=WIDE)
    assert "forward_features" in table
    assert "head" in table
    assert shape_of(model) == shape_of(evaluating(entry.name)) == (1, 1000)


@pytest.mark.usefixtures("_classes_as_they_were")
def test_tabulate_takes_a_feature_extractor():
    extractor = evaluating("resnet10t", features_only=True, out_indices=(1, -1))
    assert "backbone" in nnx.tabulate(extractor, X, console_kwargs=WIDE)
    assert len(shape_of(extractor)) == 2


@FAMILIES
def test_capture_gives_the_output_of_every_module(name):
    model = evaluating(name)
    graphdef, state = nnx.split(model)

    def captured(state, x):
        fresh = nnx.merge(graphdef, state)
        _, outputs = nnx.capture(fresh, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)
        return nnx.to_pure_dict(outputs)

    outputs = jax.eval_shape(captured, state, X)
    assert outputs["head"]["__call__"][0].shape == (1, 1000)
    assert "stem" in outputs
    assert shape_of(model) == (1, 1000)


@FAMILIES
def test_an_abstract_model_is_the_model_without_its_numbers(name):
    abstract = nnx.eval_shape(lambda: fb.create_model(name))
    real = fb.create_model(name)
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(model)))
        for model in (abstract, real)
    ]
    assert shapes[0] == shapes[1]


@FAMILIES
def test_linen_takes_the_model(name):
    linen = nnx.bridge.to_linen(fb.create_model, name, num_classes=5)
    key = jax.random.key(0)
    two = jnp.zeros((2, 64, 96, 3))  # in training mode a gate's norm needs more than one value
    variables = jax.eval_shape(lambda: linen.init({"params": key, "dropout": key}, two))
    assert {"params", "batch_stats"} <= set(variables)


@FAMILIES
def test_display_and_graph_tools_run(name):
    model = evaluating(name, num_classes=4)
    with redirect_stdout(io.StringIO()) as printed:
        nnx.display(model)
    assert type(model).__name__ in printed.getvalue()
    assert type(model).__name__ in repr(model)
    copy = nnx.clone(model)
    graphdef, state = nnx.split(copy)
    assert graphdef == nnx.graphdef(model)
    assert len(nnx.to_flat_state(state)) == len(nnx.to_flat_state(nnx.state(model)))
    training = nnx.view(model, use_running_average=False, deterministic=False)
    assert nnx.graphdef(training) != graphdef
    assert shape_of(nnx.recursive_map(lambda _, node: node, model)) == (1, 4)


@FAMILIES
def test_without_dropout_a_model_has_no_random_state(name):
    model = fb.create_model(name, dropout=0.0)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    assert jax.tree.leaves(params)
    assert jax.tree.leaves(stats)
