"""Activations by name: the table, its errors, types and what JAX can do with each."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxblocks.nn import ACTIVATIONS, get_activation


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"`activation` \(='swish'\) must be one of \['elu', .*silu"
    ):
        get_activation("swish")


def test_none_is_the_identity_and_a_callable_passes_through():
    x = jnp.asarray([-1.0, 2.0])
    np.testing.assert_array_equal(get_activation(None)(x), x)
    assert get_activation(jnp.sin) is jnp.sin


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_keeps_the_type_of_value_and_gradient(name, dtype):
    x = jnp.asarray([-4.0, -0.5, 0.0, 0.5, 7.0], dtype)
    y, pull = jax.vjp(get_activation(name), x)
    assert y.dtype == dtype
    assert pull(jnp.ones_like(y))[0].dtype == dtype


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_agree_with_differences(name):
    activation = ACTIVATIONS[name]
    with jax.enable_x64(True):
        x = jnp.asarray([-7.3, -2.2, -0.7, 0.4, 1.9, 4.1, 7.7])  # off the bends
        slope = jax.vmap(jax.grad(activation))
        second = jax.vmap(jax.grad(jax.grad(activation)))
        h = 1e-5
        for derivative, function in ((slope, activation), (second, slope)):
            difference = (function(x + h) - function(x - h)) / (2 * h)
            # h^2 and rounding / h are both near 1e-10; hard_sigmoid's 1/6 is float32's, 5e-9 off.
            np.testing.assert_allclose(derivative(x), difference, atol=2e-8)
            forward = jax.jvp(function, (x,), (jnp.ones_like(x),))[1]
            np.testing.assert_allclose(forward, derivative(x), atol=1e-14)  # float64 rounding


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_first_and_second_derivatives_are_finite_at_large_values(name):
    # What a branch not taken overflows to must not reach the branch taken.
    x = jnp.asarray([-1e4, -200.0, 200.0, 1e4])
    for function in (jax.grad(ACTIVATIONS[name]), jax.grad(jax.grad(ACTIVATIONS[name]))):
        assert bool(jnp.isfinite(jax.vmap(function)(x)).all())


@pytest.mark.untyped
def test_elu_keeps_its_slope_in_float32():
    # (e^x - 1) + 1 is 0 here.
    np.testing.assert_allclose(jax.grad(ACTIVATIONS["elu"])(-20.0), np.exp(-20.0), rtol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_copy_or_a_pickle_of_an_activation_is_the_same_function(name):
    activation = get_activation(name)
    assert pickle.loads(pickle.dumps(activation)) is activation
    assert copy.deepcopy(activation) is activation  # else a copied model would compile anew
