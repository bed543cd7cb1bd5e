"""Batch norm over a batch that several devices share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.nn import BatchNorm
from tests.devices import outcomes
from tests.nn.split_batch import CASES


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return outcomes("tests.nn.split_batch", devices=2)


@pytest.mark.parametrize("case", CASES)
def test_the_statistics_are_those_of_the_whole_batch(case, found):
    assert not found[case]


@pytest.mark.parametrize("name", ["data", ("data", "fsdp")])
def test_outside_of_its_axis_only_training_is_refused(name):
    norm, x = BatchNorm(3, axis_name=name), jnp.ones((2, 4, 4, 3))
    message = (
        r"`axis_name` \(=.*data.*\) is not a mapped axis here: "
        "in training mode, call the model within"
    )
    for call in (norm, nnx.jit(norm)):
        with pytest.raises(ValueError, match=message):
            call(x)
    norm.eval()
    np.testing.assert_array_equal(norm(x), BatchNorm.__call__(nnx.clone(norm), x))


@pytest.mark.parametrize("name", [3, ["data"], (), ("data", None)])
@pytest.mark.untyped
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"`axis_name` \(=.*\) must be a name, a tuple of them"):
        BatchNorm(3, axis_name=name)


def test_a_model_with_such_norms_infers_and_is_converted_as_any():
    rows = [[1, 16, 1, 1], [6, 24, 1, 2]]
    options = {"inverted_residual_setting": rows, "width_mult": 0.5, "num_classes": 3}
    plain = fb.create_model("mobilenet_v2", rngs=3, **options)
    norm = partial(BatchNorm, axis_name="data")
    ours = fb.create_model("mobilenet_v2", weights=fb.to_torch(plain), norm_layer=norm, **options)
    plain.eval()
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    wanted = fb.compile_inference(plain)(x)
    np.testing.assert_array_equal(fb.compile_inference(ours)(x), wanted)
