"""The depthwise form under JAX's transformations, against XLA's own grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxblocks.nn.conv import conv2d
from flaxblocks.nn.depthwise import Geometry, depthwise

GEOMETRY = Geometry((2, 1), ((2, 2), (1, 1)), (2, 3))
CHANNELS, MULTIPLIER = 3, 2


def plain(x, taps):
    kernel = taps.reshape(*taps.shape[:2], 1, -1)
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        GEOMETRY.stride,
        GEOMETRY.padding,
        rhs_dilation=GEOMETRY.dilation,
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*y.shape[:3], x.shape[-1], -1)


def ours(x, taps):
    return depthwise(x, taps, GEOMETRY)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


IMAGE, TAPS = (2, 7, 6, CHANNELS), (3, 2, CHANNELS, MULTIPLIER)


def loss(form):
    """Not linear, so that every derivative of it depends on both arguments."""
    return lambda x, taps: jnp.sum(jnp.sin(form(x, taps)))


TRANSFORMED = {
    "value": lambda f: f,
    "jvp of both": lambda f: lambda x, w: jax.jvp(f, (x, w), (x + 1, w - 1))[1],
    "jvp of the image": lambda f: lambda x, w: jax.jvp(lambda x: f(x, w), (x,), (x + 1,))[1],
    "jvp of the kernel": lambda f: lambda x, w: jax.jvp(lambda w: f(x, w), (w,), (w - 1,))[1],
    "vjp": lambda f: lambda x, w: jax.vjp(f, x, w)[1](jnp.cos(f(x, w))),
    "vmap of the image": lambda f: lambda x, w: jax.vmap(f, (0, None))(jnp.stack([x, 2 + x]), w),
    "vmap of the kernel": lambda f: lambda x, w: jax.vmap(f, (None, 0))(x, jnp.stack([w, 2 + w])),
    "gradient by example": lambda f: (
        lambda x, w: jax.vmap(jax.grad(loss(f), argnums=1), (0, None))(x[:, None], w)
    ),
}
SECOND = {
    "grad of grad": lambda f: (
        lambda x, w: jax.grad(
            lambda x, w: sum(jnp.sum(g**2) for g in jax.grad(loss(f), (0, 1))(x, w)), (0, 1)
        )(x, w)
    ),
    "jvp of grad": lambda f: (
        lambda x, w: jax.jvp(jax.grad(loss(f), (0, 1)), (x, w), (x + 1, w - 1))[1]
    ),
}


@pytest.mark.parametrize("name", [*TRANSFORMED, *SECOND])
def test_transformation_agrees_with_xla(name):
    transform = (TRANSFORMED | SECOND)[name]
    with jax.enable_x64(True):
        x, taps = arrays(IMAGE, TAPS)
        mine = jax.tree.leaves(jax.jit(transform(ours))(x, taps))
        reference = jax.tree.leaves(jax.jit(transform(plain))(x, taps))
        assert len(mine) == len(reference) > 0
        for a, b in zip(mine, reference, strict=True):
            assert a.shape == b.shape
            scale = float(jnp.abs(b).max())
            assert scale > 0
            # float64 rounding over a few dozen terms, twice as many in a second derivative
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * scale)


def test_output_geometry():
    assert GEOMETRY.output((7, 6), (3, 2)) == (4, 5)
    with jax.enable_x64(True):
        assert ours(*arrays(IMAGE, TAPS)).shape == (2, 4, 5, CHANNELS, MULTIPLIER)


def test_bfloat16_is_added_up_in_float32():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 8, 8, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((7, 7, 1, 4)), jnp.bfloat16)
    y = conv2d(x, kernel, groups=4)
    exact = conv2d(x.astype(jnp.float32), kernel.astype(jnp.float32), groups=4)
    assert y.dtype == jnp.bfloat16
    # One rounding, at the end: 49 terms added in bfloat16 miss by several units in the last place.
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_bfloat16_gradients_are_added_up_in_float32():
    # 1,024 ones: added in bfloat16 they stop at 256.
    x, kernel = jnp.ones((1, 32, 32, 2), jnp.bfloat16), jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    gradient = jax.grad(lambda k: conv2d(x, k, groups=2).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient, np.float32).ravel(), [1024, 1024])
