"""Pooling against PyTorch's in float64: values, shapes and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import flaxblocks as fb
from flaxblocks.create.load import load_torch
from flaxblocks.nn import (
    AvgPool,
    Conv,
    MaxPool,
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    max_pool,
)
from flaxblocks.parity import FLOAT32_FACTOR, compare, relative_error
from tests.support import rms

MAX = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 4, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 5, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "dilation": 2},
    {"kernel_size": (2, 3), "stride": 1, "dilation": (3, 2), "padding": 1},
    {"kernel_size": 2, "stride": 3, "dilation": 3, "padding": 1, "ceil_mode": True},
]
AVERAGE = [
    {"kernel_size": 3},
    {"kernel_size": 4, "stride": 2, "padding": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "ceil_mode": True,
        "count_include_pad": False,
    },
    {"kernel_size": (4, 3), "stride": (3, 2), "padding": (2, 0), "ceil_mode": True},
    {"kernel_size": 2, "stride": 4, "padding": 1, "ceil_mode": True},
]


def check(ours, theirs, x, exact=False):
    torch_x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    torch_y = theirs(torch_x)
    cotangent = np.random.default_rng(1).standard_normal(torch_y.shape)
    (torch_y * torch.from_numpy(cotangent)).sum().backward()
    assert torch_x.grad is not None
    with jax.enable_x64(True):
        y, pull = jax.vjp(ours, jnp.asarray(x))
        (gradient,) = pull(jnp.asarray(cotangent.transpose(0, 2, 3, 1)))
    reference = torch_y.detach().numpy().transpose(0, 2, 3, 1)
    assert relative_error(np.asarray(y), reference) <= (0 if exact else 1e-12)
    reference = torch_x.grad.numpy().transpose(0, 2, 3, 1)
    assert relative_error(np.asarray(gradient), reference) <= (1e-12 if exact else 1e-10)


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_a_window_larger_than_the_image_hangs_over_where_ceil_mode_lets_it(pool):
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4))  # 2 pixels, a window of 3
    theirs = getattr(F, f"{pool}2d")
    options = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    check(partial(getattr(fb.nn, pool), **options), partial(theirs, **options), x)
    with pytest.raises(ValueError, match="a window of 3 pixels does not fit an image of 2"):
        getattr(fb.nn, pool)(jnp.asarray(x), 3, stride=1, ceil_mode=True)


@pytest.mark.parametrize("options", MAX, ids=str)
def test_max_pool_agrees(options):
    rng = np.random.default_rng(0)
    kernel, rest = options["kernel_size"], {k: v for k, v in options.items() if k != "kernel_size"}
    ours = jax.jit(lambda x: max_pool(x, kernel, **rest))
    # After a ReLU most windows have equal values: the gradient goes to the first, in both.
    for x in (np.maximum(rng.standard_normal((2, 9, 7, 3)), 0), -1 - rng.random((2, 10, 8, 2))):
        check(ours, partial(F.max_pool2d, **options), x, exact=True)


@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool_agrees_at_nan_and_infinity(dilation):
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 2))
    x[0, 3, 3, 0], x[0, 5, 5, 1], x[0, 0, 0] = np.nan, np.inf, -np.inf
    torch_y = F.max_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 3, 2, 1, dilation)
    with jax.enable_x64(True):
        y = max_pool(jnp.asarray(x), 3, stride=2, padding=1, dilation=dilation)
    assert np.isnan(torch_y.numpy()).any()
    np.testing.assert_array_equal(y, torch_y.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("options", AVERAGE, ids=str)
def test_avg_pool_agrees(options):
    rng = np.random.default_rng(0)
    kernel, rest = options["kernel_size"], {k: v for k, v in options.items() if k != "kernel_size"}
    ours = jax.jit(lambda x: avg_pool(x, kernel, **rest))
    for size in ((9, 7), (10, 8)):
        check(ours, partial(F.avg_pool2d, **options), rng.standard_normal((2, *size, 2)))


@pytest.mark.parametrize("output_size", [1, 3, (2, 5), (12, 7), (9, 1)])
def test_adaptive_pool_agrees(output_size):
    check(
        jax.jit(lambda x: adaptive_avg_pool(x, output_size)),
        lambda x: F.adaptive_avg_pool2d(x, output_size),
        np.random.default_rng(0).standard_normal((2, 9, 7, 2)),
    )


def test_adaptive_pool_keeps_infinity_in_its_cell():
    x = np.ones((1, 6, 6, 1))
    x[0, 1, 1, 0], x[0, 5, 5, 0] = np.inf, np.nan
    torch_y = F.adaptive_avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 3)
    y = adaptive_avg_pool(jnp.asarray(x, jnp.float32), 3)
    np.testing.assert_array_equal(y, torch_y.numpy().transpose(0, 2, 3, 1))


def test_global_pool_agrees():
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 3))
    with jax.enable_x64(True):
        y = np.asarray(global_avg_pool(jnp.asarray(x)))
    theirs = torch.from_numpy(x).mean((1, 2)).numpy()
    assert relative_error(y, theirs) <= 1e-12


@pytest.mark.parametrize("side", [7, 14, 28, 56])
def test_global_pool_rounds_hardly_more_than_pytorchs(side):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, side, side, 48)) + rng.standard_normal(48)
    x = x.astype(np.float32)
    theirs = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().mean((2, 3)).numpy()
    ours, truth = np.asarray(jax.jit(global_avg_pool)(x)), x.astype(np.float64).mean((1, 2))
    # Added up pixel by pixel it is up to ten times PyTorch's.
    assert rms(ours - truth) <= FLOAT32_FACTOR * rms(theirs - truth)


class Pooled(nnx.Module):
    """A convolution and a pool, as a Sequential has them in PyTorch."""

    layouts = {"article": lambda _: iter([("conv", "0"), ("pool", "1")])}

    def __init__(self, pool: nnx.Module):
        self.conv = Conv(3, 4, 3, rngs=nnx.Rngs(0))
        self.pool = pool

    def __call__(self, x):
        return self.pool(self.conv(x))


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [(MaxPool, torch.nn.MaxPool2d, options) for options in MAX]
    + [(AvgPool, torch.nn.AvgPool2d, options) for options in AVERAGE],
    ids=str,
)
def test_a_pool_as_a_module_is_compared_under_its_name(ours, theirs, options):
    oracle = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), theirs(**options))
    model = Pooled(ours(**options))
    load_torch(model, oracle.state_dict())
    report = compare(model, oracle, np.random.default_rng(0).standard_normal((2, 12, 13, 3)))
    assert [row.foreign for row in report.rows] == ["0", "1", "(output)"]
    assert report.first_departure is None, str(report)


@pytest.mark.parametrize("options", [{"padding": 2}, {"dilation": 5}], ids=str)
def test_both_refuse(options):
    with pytest.raises(RuntimeError):
        F.max_pool2d(torch.zeros(1, 1, 9, 9), 3, **options)
    with pytest.raises(ValueError, match=r"must be at most half|does not fit"):
        max_pool(jnp.zeros((1, 9, 9, 1)), 3, **options)
