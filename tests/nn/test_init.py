"""Initialisers: moments, bounds, and one value however they are called; and the argument checks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxblocks.nn.arguments import check_divisible, check_positive, check_rate, pair
from flaxblocks.nn.init import (
    CHUNK,
    full,
    kaiming_normal_fan_out,
    make_rngs,
    normal,
    undrawn,
    uniform_fan_in,
    zeros,
)

DRAWN = {
    "uniform": uniform_fan_in,
    "kaiming": kaiming_normal_fan_out,
    "normal": normal,
    "normal 1": partial(normal, std=1.0),
}
KEY = jax.random.key(0)
SHAPE = (3, 3, 32, 192)  # 55,296 values, three chunks and a part


def test_uniform_moments_and_bound():
    values = np.asarray(uniform_fan_in(KEY, SHAPE, jnp.float32), np.float64)
    bound = (9 * 32) ** -0.5
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.999 * bound
    # n = 55,296 draws: the mean's deviation is bound / (3 n)^1/2, the variance's 0.4%.
    assert abs(values.mean()) < 5 * bound / (3 * values.size) ** 0.5
    assert abs(values.var() / (bound**2 / 3) - 1) < 0.02
    quarters = np.histogram(values, np.linspace(-bound, bound, 5))[0] / values.size
    np.testing.assert_allclose(quarters, 0.25, atol=0.01)  # five deviations


def test_uniform_takes_the_fan_in_given():
    values = uniform_fan_in(KEY, (4096,), jnp.float32, fan_in=25)
    assert 0.199 < float(jnp.abs(values).max()) <= 0.2


@pytest.mark.parametrize(
    ("draw", "deviation"),
    [
        (normal, 0.01),
        (partial(normal, std=2.0), 2.0),
        (kaiming_normal_fan_out, (2 / (9 * 192)) ** 0.5),
    ],
)
def test_normal_moments(draw, deviation):
    values = np.asarray(draw(KEY, SHAPE, jnp.float32), np.float64) / deviation
    n = values.size
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.std() - 1) < 5 / (2 * n) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / n) ** 0.5  # a uniform one has 1.8
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 5 * (0.2166 / n) ** 0.5


def test_zeros():
    values = zeros(KEY, (3, 2), jnp.bfloat16)
    assert values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(values, np.float32), np.zeros((3, 2)))


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3, 3, 1, 2000), (1280, 3)])
def test_same_bits_eager_jitted_mapped_and_closed_over(name, dtype, shape):
    draw = DRAWN[name]
    eager = np.asarray(draw(KEY, shape, dtype), np.float32)
    jitted = jax.jit(lambda key: draw(key, shape, dtype))(KEY)
    closed_over = jax.jit(lambda: draw(KEY, shape, dtype))()
    mapped = jax.vmap(lambda key: draw(key, shape, dtype))(jax.random.split(KEY, 2)[:1])[0]
    one = draw(jax.random.split(KEY, 2)[0], shape, dtype)
    for values in (jitted, closed_over):
        assert values.dtype == dtype
        np.testing.assert_array_equal(np.asarray(values, np.float32), eager)
    np.testing.assert_array_equal(np.asarray(mapped, np.float32), np.asarray(one, np.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_a_constant_compiles_nothing(dtype, caplog):
    with jax.log_compiles():
        values = full(3, (7, 1, 13), dtype)
    assert "Compiling" not in caplog.text
    assert not values.committed
    assert values.dtype == dtype
    np.testing.assert_array_equal(np.asarray(values, np.float32), np.full((7, 1, 13), 3))


def test_draws_are_left_out_and_made_by_their_numbers():
    def build(rngs):
        return [
            normal(rngs.params(), (3, 2), jnp.float32),
            full(1, (4,), jnp.int32),
            uniform_fan_in(rngs.params(), (3, 2), jnp.bfloat16),
        ]

    drawn = build(make_rngs({"params": 5}))
    with undrawn() as shapes:
        assert all(a is b for a, b in zip(build(make_rngs({"params": 5})), shapes, strict=True))
    assert [(s.shape, s.dtype) for s in shapes] == [(a.shape, a.dtype) for a in drawn]
    with undrawn(but={2}) as shapes:
        *left_out, last = build(make_rngs({"params": 5}))
    assert left_out == shapes[:2]
    np.testing.assert_array_equal(np.asarray(last, np.float32), np.asarray(drawn[2], np.float32))


@pytest.mark.parametrize("name", DRAWN)
def test_shape_can_be_evaluated_without_drawing(name):
    out = jax.eval_shape(lambda key: DRAWN[name](key, SHAPE, jnp.bfloat16), KEY)
    assert out.shape == SHAPE
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", DRAWN)
def test_keys_and_chunks_differ(name):
    draw = DRAWN[name]
    first, second = (np.asarray(draw(jax.random.key(i), (2, CHUNK), jnp.float32)) for i in (0, 1))
    assert (first != second).mean() > 0.99
    assert (first[0] != first[1]).mean() > 0.99  # the second chunk is not the first again
    correlation = np.corrcoef(np.stack([*first, *second]))
    assert np.abs(correlation - np.eye(4)).max() < 5 / CHUNK**0.5


def test_pair():
    assert pair("stride", 2) == (2, 2)
    assert pair("stride", (1, 2)) == (1, 2)
    assert pair("padding", 0, minimum=0) == (0, 0)


@pytest.mark.parametrize(
    "value", [3.0, "33", None, True, (1, 2, 3), (1,), (1.0, 2), (True, 1), np.float32(2)]
)
@pytest.mark.untyped
def test_pair_refuses_another_type(value):
    with pytest.raises(ValueError, match=r"`stride` \(=.*\) must be an int or a pair of ints"):
        pair("stride", value)


@pytest.mark.parametrize(("value", "minimum"), [(0, 1), ((1, 0), 1), (-1, 0), ((0, -2), 0)])
def test_pair_refuses_a_small_value(value, minimum):
    with pytest.raises(ValueError, match=rf"`size` \(=.*\) must be at least {minimum}"):
        pair("size", value, minimum)


@pytest.mark.untyped
def test_checks():
    check_positive(a=1, b=7)
    check_divisible("groups", 4, features=8)
    check_rate("rate", 0.0)
    check_rate("rate", 1.0)
    with pytest.raises(ValueError, match=r"`b` \(=0\) must be an integer of at least 1"):
        check_positive(a=1, b=0)
    with pytest.raises(ValueError, match=r"`a` \(=1.5\) must be an integer of at least 1"):
        check_positive(a=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`out` \(=9\) must be divisible by `groups` \(=4\)"):
        check_divisible("groups", 4, features=8, out=9)
    with pytest.raises(ValueError, match=r"`rate` \(=1.01\) must be a probability in \[0, 1\]"):
        check_rate("rate", 1.01)
