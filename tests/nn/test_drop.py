"""Dropout and stochastic depth: rates, scale, modes, and random state under `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxblocks.nn import Dropout, StochasticDepth

BOTH = [Dropout, StochasticDepth]


@pytest.mark.parametrize("layer", BOTH)
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_refuses_a_rate(layer, rate):
    with pytest.raises(ValueError, match=rf"`rate` \(={rate}\) must be a probability in \[0, 1\]"):
        layer(rate, rngs=nnx.Rngs(0))


@pytest.mark.untyped
def test_refuses_a_mode():
    with pytest.raises(ValueError, match=r"`mode` \(='pixel'\) must be one of 'row', 'batch'"):
        StochasticDepth(0.5, "pixel", rngs=nnx.Rngs(0))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_rate_and_scale(rate):
    y = np.asarray(Dropout(rate, rngs=nnx.Rngs(0))(jnp.ones((100, 400))))
    survived = 1 / (1 - rate)
    np.testing.assert_allclose(np.unique(y), [0, survived], rtol=1e-6)
    # 40,000 draws: five deviations are 5 (rate (1 - rate) / 40,000)^1/2, at most 0.0125.
    assert abs((y == 0).mean() - rate) < 0.0125


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_stochastic_depth_by_row(rate):
    y = np.asarray(StochasticDepth(rate, rngs=nnx.Rngs(0))(jnp.ones((4000, 2, 1, 3))))
    rows = y.reshape(4000, -1)
    np.testing.assert_array_equal(rows, rows[:, :1].repeat(6, 1))  # a row survives as a whole
    np.testing.assert_allclose(np.unique(rows), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs((rows[:, 0] == 0).mean() - rate) < 0.04  # five deviations of 4,000 draws


def test_stochastic_depth_by_batch():
    layer = StochasticDepth(0.3, "batch", rngs=nnx.Rngs(0))
    run = nnx.jit(lambda layer, x: layer(x))
    values = [np.unique(run(layer, jnp.ones((4, 3)))) for _ in range(200)]
    assert {len(v) for v in values} == {1}  # all of the batch or nothing
    zeros = np.mean([v[0] == 0 for v in values])
    assert abs(zeros - 0.3) < 0.17  # five deviations of 200 draws
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.7], rtol=1e-6)


@pytest.mark.parametrize("layer", BOTH)
def test_extreme_rates(layer):
    x = jnp.arange(1.0, 9.0).reshape(2, 4)
    np.testing.assert_array_equal(layer(0.0, rngs=nnx.Rngs(0))(x), x)
    np.testing.assert_array_equal(layer(1.0, rngs=nnx.Rngs(0))(x), 0)
    # Nothing divides by 0 on the way back either.
    gradient = jax.grad(lambda x: layer(1.0, rngs=nnx.Rngs(0))(x).sum())(x)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("layer", BOTH)
def test_switched_by_mode_and_by_view(layer):
    x = jnp.ones((64, 64))
    drop = layer(0.5, rngs=nnx.Rngs(0))
    assert bool((drop(x) == 0).any())
    still = nnx.view(drop, deterministic=True)
    np.testing.assert_array_equal(still(x), x)
    assert bool((drop(x) == 0).any())
    drop.eval()
    np.testing.assert_array_equal(drop(x), x)
    assert bool((nnx.view(drop, deterministic=False)(x) == 0).any())
    drop.train()
    assert bool((drop(x) == 0).any())


@pytest.mark.parametrize("layer", BOTH)
def test_draws_anew_and_repeats_with_the_seed(layer):
    x = jnp.ones((64, 8))
    drop, again, other = (layer(0.5, rngs=nnx.Rngs(seed)) for seed in (0, 0, 1))
    first = drop(x)
    assert not bool((drop(x) == first).all())
    np.testing.assert_array_equal(again(x), first)
    assert not bool((other(x) == first).all())


@pytest.mark.parametrize("layer", BOTH)
def test_random_state_advances_under_jit(layer):
    x = jnp.ones((64, 8))
    eager = layer(0.5, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer(0.5, rngs=nnx.Rngs(0)))

    @jax.jit
    def step(state, x):
        drop = nnx.merge(graphdef, state)
        return drop(x), nnx.state(drop)

    for _ in range(3):
        y, state = step(state, x)
        np.testing.assert_array_equal(y, eager(x))


def test_two_layers_of_one_stream_draw_differently():
    rngs = nnx.Rngs(0)
    x = jnp.ones((64, 8))
    first, second = (StochasticDepth(0.5, rngs=rngs) for _ in range(2))
    assert not bool((first(x) == second(x)).all())


@pytest.mark.parametrize("layer", BOTH)
def test_keeps_the_type(layer):
    assert layer(0.5, rngs=nnx.Rngs(0))(jnp.ones((4, 4), jnp.bfloat16)).dtype == jnp.bfloat16
