"""Pooling by itself: errors, types, and the cells of adaptive pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxblocks.nn import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be at least 1"),
        ({"kernel_size": (2, 2, 2)}, r"`kernel_size` \(=\(2, 2, 2\)\) must be an int or a pair"),
        ({"kernel_size": 2, "stride": 0}, r"`stride` \(=0\) must be at least 1"),
        ({"kernel_size": 2, "padding": -1}, r"`padding` \(=-1\) must be at least 0"),
        (
            {"kernel_size": (4, 3), "padding": 2},
            r"`padding` \(=\(2, 2\)\) must be at most half of `kernel_size` \(=\(4, 3\)\)",
        ),
        (
            {"kernel_size": (9, 2), "padding": 1},
            "a window of 9 pixels does not fit an image of 6 padded by 1",
        ),
    ],
)
@pytest.mark.untyped
def test_refuses(pool, options, message):
    with pytest.raises(ValueError, match=message):
        pool(jnp.zeros((1, 6, 6, 2)), **options)


def test_refuses_what_only_one_pool_takes():
    with pytest.raises(ValueError, match=r"`dilation` \(=0\) must be at least 1"):
        max_pool(jnp.zeros((1, 6, 6, 2)), 2, dilation=0)
    with pytest.raises(ValueError, match="a window of 7 pixels does not fit an image of 6"):
        max_pool(jnp.zeros((1, 6, 6, 2)), 3, dilation=3)
    with pytest.raises(ValueError, match=r"`output_size` \(=0\) must be at least 1"):
        adaptive_avg_pool(jnp.zeros((1, 6, 6, 2)), 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_keeps_the_type(dtype):
    x = jnp.ones((1, 6, 6, 2), dtype)
    for y in (
        max_pool(x, 2, padding=1),
        max_pool(x, 2, dilation=2, padding=1),
        avg_pool(x, 3, padding=1, count_include_pad=False),
        global_avg_pool(x),
        adaptive_avg_pool(x, 4),
    ):
        assert y.dtype == dtype
        np.testing.assert_array_equal(np.asarray(y, np.float32), 1)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_bfloat16_is_added_up_in_float32(count_include_pad):
    # 961 pixels a window: counted or added in bfloat16 they stop at 256.
    x = jnp.full((1, 31, 31, 2), 3.0, jnp.bfloat16)
    for y in (
        avg_pool(x, 31, count_include_pad=count_include_pad),
        global_avg_pool(x),
        adaptive_avg_pool(x, 1),
    ):
        np.testing.assert_array_equal(np.asarray(y, np.float32), 3)


def test_padding_of_max_pool_never_wins():
    x = jnp.full((1, 4, 4, 1), -7.0)
    for dilation in (1, 2):
        y = max_pool(x, 3, stride=2, padding=1, dilation=dilation)
        np.testing.assert_array_equal(y, -7.0)


def test_stride_defaults_to_the_kernel():
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    for pool in (max_pool, avg_pool):
        np.testing.assert_array_equal(pool(x, (3, 2)), pool(x, (3, 2), stride=(3, 2)))
        assert pool(x, (3, 2)).shape == (1, 2, 3, 1)


@pytest.mark.parametrize(("size", "cells"), [(6, 4), (7, 3), (3, 5), (5, 5)])
def test_adaptive_cells_are_the_documented_ones(size, cells):
    x = np.random.default_rng(0).standard_normal((1, size, 1, 1)).astype(np.float32)
    y = adaptive_avg_pool(jnp.asarray(x), (cells, 1))
    for i in range(cells):
        cell = x[0, int(np.floor(i * size / cells)) : int(np.ceil((i + 1) * size / cells))]
        np.testing.assert_allclose(y[0, i, 0, 0], cell.mean(), rtol=1e-6, atol=1e-7)


def test_global_pool_is_the_adaptive_one_of_one_cell():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 7, 3)), jnp.float32)
    assert global_avg_pool(x).shape == (2, 3)
    np.testing.assert_allclose(global_avg_pool(x), adaptive_avg_pool(x, 1)[:, 0, 0], atol=1e-6)


def test_a_symbolic_batch_is_kept():
    batch = jax.export.symbolic_shape("n")[0]
    x = jax.ShapeDtypeStruct((batch, 8, 8, 2), jnp.float32)
    for pool in (
        lambda x: max_pool(x, 3, stride=2, padding=1),
        lambda x: max_pool(x, 3, dilation=2),
        lambda x: avg_pool(x, 2),
        lambda x: adaptive_avg_pool(x, 3),
    ):
        exported = jax.export.export(jax.jit(pool), platforms=["cpu", "cuda", "tpu"])(x)
        assert exported.out_avals[0].shape[0] == batch
