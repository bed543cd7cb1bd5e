"""`summarize` on models that are not a stem and a list of blocks."""

import jax.numpy as jnp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.nn import Conv, MaxPool
from flaxblocks.summary import summarize


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
