"""The CPU forms under JAX's transformations, against XLA's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxblocks.nn.conv import conv2d
from flaxblocks.nn.forms.depthwise import depthwise
from flaxblocks.nn.forms.grouped import grouped, separate_groups
from flaxblocks.nn.forms.windows import Geometry, plain_conv
from tests.support import memory_of

GEOMETRY = Geometry((2, 1), ((2, 2), (1, 1)), (2, 3))


def depthwise_form(x, kernel, geometry, groups):
    y = depthwise(x, kernel.reshape(*kernel.shape[:2], groups, -1), geometry)
    return y.reshape(*y.shape[:3], kernel.shape[-1])


CHANNELS = 4
IMAGE = (2, 7, 6, CHANNELS)
# (form, groups): kernels of 3x2 taps to 8 channels
FORMS = {
    "depthwise": (depthwise_form, 4),
    "grouped": (grouped, 2),
    "separate": (separate_groups, 2),
}


def arrays(groups):
    rng = np.random.default_rng(0)
    shapes = IMAGE, (3, 2, CHANNELS // groups, 8)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*TRANSFORMED, *SECOND])
def test_transformation_agrees_with_xla(name, form):
    transform, (ours, groups) = (TRANSFORMED | SECOND)[name], FORMS[form]
    with jax.enable_x64(True):
        x, kernel = arrays(groups)
        mine, reference = (
            jax.tree.leaves(
                jax.jit(transform(lambda x, w, f=f: f(x, w, GEOMETRY, groups)))(x, kernel)
            )
            for f in (ours, plain_conv)
        )
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
        x, kernel = arrays(4)
        y = depthwise(x, kernel.reshape(3, 2, 4, 2), GEOMETRY)
        assert y.shape == (2, 4, 5, CHANNELS, 2)


@pytest.mark.parametrize("shape", [(7, 7, 1, 4), (4, 4, 2, 4)])
def test_bfloat16_is_added_up_in_float32(shape):
    rng = np.random.default_rng(0)
    groups = 4 // shape[2]
    x = jnp.asarray(rng.standard_normal((1, 8, 8, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
    y = conv2d(x, kernel, groups=groups)
    exact = conv2d(x.astype(jnp.float32), kernel.astype(jnp.float32), groups=groups)
    assert y.dtype == jnp.bfloat16
    # One rounding, at the end: 49 terms added in bfloat16 miss by several units in the last place.
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_bfloat16_gradients_are_added_up_in_float32():
    # 1,024 ones: added in bfloat16 they stop at 256.
    x, kernel = jnp.ones((1, 32, 32, 2), jnp.bfloat16), jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    gradient = jax.grad(lambda k: conv2d(x, k, groups=2).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient, np.float32).ravel(), [1024, 1024])


def test_depthwise_gradients_keep_no_image_for_each_tap():
    x, kernel = jnp.ones((4, 32, 32, 16)), jnp.ones((3, 3, 1, 16))
    geometry = Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))

    def gradient(x, kernel, cotangent):
        y, back = jax.vjp(lambda x, w: depthwise_form(x, w, geometry, 16), x, kernel)
        return y, back(cotangent)

    assert (
        memory_of(gradient, x, kernel, x) < 6 * x.nbytes
    )  # nine at least, if the taps' windows were kept


def test_pointwise_gradients_transpose_no_image():
    """XLA's product over three axes at once would lay the image out anew."""
    x, kernel = jnp.ones((4, 32, 32, 16)), jnp.ones((1, 1, 16, 32))

    def gradient(x, kernel, cotangent):
        return jax.vjp(lambda w: conv2d(x, w), kernel)[1](cotangent)

    cotangent = jnp.ones((4, 32, 32, 32))
    assert memory_of(gradient, x, kernel, cotangent) < x.nbytes / 4
