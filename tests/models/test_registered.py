"""What every registered model promises, whatever its family."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flaxblocks.build import abstract_model
from flaxblocks.models import FeatureExtractor, ImageModel
from flaxblocks.registry import model_entries
from flaxblocks.summary import count_parameters, summarize

EVERY = pytest.mark.parametrize("entry", model_entries(), ids=lambda entry: entry.name)


def output_of(model: nnx.Module, size: tuple[int, int] = (64, 96), channels: int = 3):
    """The shape of the output for two images, without a number computed."""
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, image)
    return jax.tree.map(lambda leaf: leaf.shape, y)


@EVERY
def test_registered_counts_hold(entry):
    model = abstract_model(entry.name)
    assert count_parameters(model) == entry.parameters
    if entry.multiply_adds is not None:
        rows = summarize(model, entry.input_size)
        assert sum(row.multiply_adds for row in rows) == entry.multiply_adds


@EVERY
def test_classes_and_channels_are_the_callers(entry):
    assert output_of(abstract_model(entry.name, num_classes=7)) == (2, 7)
    assert output_of(abstract_model(entry.name, in_channels=5), channels=5) == (2, 1000)
    model = abstract_model(entry.name, num_classes=0)
    assert output_of(model) == (2, model.num_features)


@EVERY
def test_feature_maps_have_the_channels_and_the_reduction_they_claim(entry):
    model: ImageModel = abstract_model(entry.name)
    info = list(model.feature_info)
    assert len(info) >= 3
    assert [feature.reduction for feature in info] == sorted(f.reduction for f in info)
    shapes = output_of(FeatureExtractor(abstract_model(entry.name)))
    assert shapes == [(2, 64 // f.reduction, 96 // f.reduction, f.channels) for f in info]
    cut = FeatureExtractor(abstract_model(entry.name), [1])
    assert output_of(cut) == [shapes[1]]
    assert count_parameters(cut) < count_parameters(model)
