"""`summarize` on models that are not a stem and a list of blocks."""

import jax.numpy as jnp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.inspect.summary import count_parameters, summarize, table
from flaxblocks.nn import Conv, MaxPool


class Nested(nnx.Module):
    """Stages that are lists of blocks, and a pool between."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stages = nnx.List(
            [
                nnx.List([Conv(3, 4, 1, rngs=rngs), Conv(4, 4, 3, padding=1, rngs=rngs)]),
                nnx.List([fb.blocks.ConvNormAct(4, 6, 1, rngs=rngs)]),
            ]
        )
        self.pool = MaxPool(2)

    def __call__(self, x):
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.pool(x)


def test_nested_stages_are_listed_with_all_they_cost():
    rows = summarize(Nested(), (8, 8))
    assert [row.name for row in rows] == ["stages.0.0", "stages.0.1", "stages.1.0", "pool"]
    assert [row.shape for row in rows][-1] == (4, 4, 6)
    # kernel taps and bias times output values, and 1 for each norm parameter
    assert [row.multiply_adds for row in rows] == [1024, 9472, 64 * (24 + 6) + 12, 0]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode(training):
    rows = [[1, 16, 1, 1], [6, 24, 1, 2]]
    model = fb.create_model("mobilenet_v2", inverted_residual_setting=rows, num_classes=3)
    model.train() if training else model.eval()
    summarize(model, (32, 32))
    assert model.stem.norm.use_running_average is not training
    assert model.dropout.deterministic is not training
    assert model(jnp.ones((2, 32, 32, 3))).shape == (2, 3)


class Scale(nnx.Module):
    """A layer that only its user knows."""

    def __init__(self):
        self.gamma = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return x * self.gamma[...]


class Mixed(nnx.Module):
    """Flax's own layers, a user's, parameters in a list, and a layer that does not run."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), Scale())
        self.head = nnx.LoRALinear(4, 5, lora_rank=2, rngs=rngs)
        self.spare = nnx.Linear(4, 2, rngs=rngs)
        self.shifts = nnx.List([nnx.Param(jnp.zeros(4))])

    def __call__(self, x):
        return self.head(self.stem(x).mean((1, 2)) + self.shifts[0][...])


def test_flaxs_own_layers_are_counted_in_a_model():
    rows = {row.name: row for row in summarize(Mixed(), (8, 8))}
    assert rows["stem"].multiply_adds == 64 * 4 * (27 + 1)
    assert rows["head"].multiply_adds == 20 + 5 + 4 * 2 + 2 * 5


def test_what_is_not_counted_is_named():
    model = Mixed()
    rows = summarize(model, (8, 8))
    assert [(row.name, row.uncounted) for row in rows] == [
        ("stem", ("stem.layers.1",)),
        ("head", ()),
        ("", ("",)),
        ("spare", ("spare",)),
    ]
    assert [row.shape for row in rows][2:] == [(5,), ()]
    assert sum(row.parameters for row in rows) == count_parameters(model)
    lines = table(rows).splitlines()
    assert lines[-1] == (
        "not in the multiply-adds, without a known rule or an output: stem.layers.1, (model), spare"
    )
    assert lines[-3].split() == ["(model)", "Mixed", "5", "4", "0"]
    assert lines[-2].split() == ["spare", "Linear", "10", "0"]
    assert len(table(rows[1:2]).splitlines()) == 2  # all of it is counted
