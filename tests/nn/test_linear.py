"""`Linear` by itself: errors, types, initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from flaxblocks.nn import Linear
from flaxblocks.nn.init import normal, zeros


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((0, 4), r"`in_features` \(=0\) must be an integer of at least 1"),
        ((4, -2), r"`out_features` \(=-2\) must be an integer of at least 1"),
        ((4, True), r"`out_features` \(=True\) must be an integer of at least 1"),
    ],
)
def test_refuses_widths(widths, message):
    with pytest.raises(ValueError, match=message):
        Linear(*widths, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(2, 5), (4, 1), ()])
@pytest.mark.untyped
def test_call_refuses_another_width(shape):
    with pytest.raises(ValueError, match=r"`x` \(shape .*\) must be \(\.\.\., 4\)"):
        Linear(4, 3, rngs=nnx.Rngs(0))(jnp.zeros(shape))


@pytest.mark.parametrize("leading", [(), (5,), (2, 0), (2, 3, 4)])
def test_keeps_leading_axes(leading):
    layer = Linear(4, 3, rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((*leading, 4))).shape == (*leading, 3)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_a_long_sum_is_taken_in_parts_of_the_last_axis(leading):
    rng = np.random.default_rng(0)
    layer = Linear(600, 3, rngs=nnx.Rngs(0))
    x = rng.standard_normal((*leading, 600)).astype(np.float32)
    wanted = x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(jnp.asarray(x)), wanted, atol=1e-5)  # float32 rounding


def test_variables_and_types():
    layer = Linear(4, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer.kernel.shape == (4, 3)
    assert layer.kernel[...].dtype == jnp.float32
    assert layer(jnp.zeros((2, 4))).dtype == jnp.bfloat16
    assert Linear(4, 3, bias=False, rngs=nnx.Rngs(0)).bias is None
    narrow = Linear(4, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert narrow.bias is not None
    assert narrow.bias[...].dtype == jnp.bfloat16


def test_initialisers_reach_the_parameters():
    layer = Linear(64, 512, rngs=nnx.Rngs(0))
    assert layer.bias is not None
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.98 / 8 < float(jnp.abs(values).max()) <= 1 / 8  # 64^-1/2
    other = Linear(64, 512, kernel_init=normal, bias_init=zeros, rngs=nnx.Rngs(0))
    assert other.bias is not None
    np.testing.assert_array_equal(other.bias[...], 0)
    assert abs(float(other.kernel[...].std()) / 0.01 - 1) < 0.02  # 32,768 values: 0.4% a deviation


def test_lowers_for_every_platform_with_a_symbolic_batch():
    layer = Linear(320, 5, rngs=nnx.Rngs(0))  # so many inputs are added up in parts on CPU
    batch = export.symbolic_shape("n")[0]
    exported = export.export(jax.jit(lambda x: layer(x)), platforms=["cpu", "cuda", "tpu"])(
        jax.ShapeDtypeStruct((batch, 320), jnp.float32)
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 320)), jnp.float32)
    np.testing.assert_allclose(exported.call(x), layer(x), atol=1e-6)  # float32 rounding
