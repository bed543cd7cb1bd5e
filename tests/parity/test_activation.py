"""Every activation against PyTorch's in float64: anywhere, at its bends, at NaN and infinity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flaxblocks.nn import ACTIVATIONS
from flaxblocks.parity import relative_error

TWINS = {
    "elu": F.elu,
    "gelu": F.gelu,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "identity": torch.nn.Identity(),
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}
BENDS = np.asarray([-6.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, 20.0])
TINY = 1e-300  # beside 0: XLA takes subnormal numbers, those below 2e-308, for 0
NEIGHBOURS = np.concatenate(
    [np.nextafter(BENDS, -np.inf) - TINY, BENDS, np.nextafter(BENDS, np.inf) + TINY]
)
# Straight in pieces: no transcendental function is rounded, so the slopes are equal to the bit.
STRAIGHT = ("hard_sigmoid", "identity", "leaky_relu", "relu", "relu6")
# The slope of hard_swish where it bends: what PyTorch 2.6 and 2.7 may give, which take a bend for
# curved (2.6 does so for 3 only where it computes one number at a time,
# https://github.com/pytorch/pytorch/issues/136345), and what PyTorch gives from 2.8 on
# (https://github.com/pytorch/pytorch/pull/148049), which is ours.
HARD_SWISH_SLOPES = {-3.0: ((-0.5,), 0.0), 3.0: ((1.5, 1.0), 1.0)}
HAS_THE_OLD_SLOPES = torch.__version__ < "2.8"


def both(name: str, x: np.ndarray):
    """Value and slope, ours and PyTorch's, as PyTorch has them from 2.8 on."""
    torch_x = torch.from_numpy(x).requires_grad_()
    torch_y = TWINS[name](torch_x)
    torch_y.backward(torch.ones_like(torch_y))
    assert torch_x.grad is not None
    with jax.enable_x64(x.dtype == np.float64):
        y, pull = jax.vjp(ACTIVATIONS[name], jnp.asarray(x))
        (slope,) = pull(jnp.ones_like(y))
    torch_slope = torch_x.grad.numpy()
    if name == "hard_swish":
        torch_slope = with_the_new_slopes(x, torch_slope)
    return (np.asarray(y), np.asarray(slope)), (torch_y.detach().numpy(), torch_slope)


def with_the_new_slopes(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """PyTorch's slope of hard_swish; an older one's with its known values at the bends replaced."""
    for bend, (old, new) in HARD_SWISH_SLOPES.items():
        assert np.isin(slope[x == bend], old if HAS_THE_OLD_SLOPES else new).all()
        slope = np.where(x == bend, np.asarray(new, slope.dtype), slope)
    return slope


def test_every_activation_has_a_twin():
    assert set(TWINS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_agrees_on_random_values(name, scale):
    x = scale * np.random.default_rng(0).standard_normal(4001)
    for ours, theirs in zip(*both(name, x), strict=True):
        assert relative_error(ours, theirs) <= 1e-12


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_agrees_at_the_bends(name):
    (y, slope), (torch_y, torch_slope) = both(name, NEIGHBOURS)
    # Value by value; 1 - tanh^2 and 1 + erf cancel in both, hence a few roundings of 1.
    np.testing.assert_allclose(y, torch_y, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, torch_slope, rtol=1e-12, atol=1e-14)
    if name in STRAIGHT:
        np.testing.assert_array_equal(slope, torch_slope)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_swish_is_as_straight_at_its_bends_as_beyond_them(dtype):
    """Whichever PyTorch is installed."""
    (_, slope), _ = both("hard_swish", np.asarray(list(HARD_SWISH_SLOPES), dtype))
    np.testing.assert_array_equal(slope, [new for _, new in HARD_SWISH_SLOPES.values()])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_at_the_bends_in_float32(name):
    (_, slope), (_, torch_slope) = both(name, BENDS.astype(np.float32))
    np.testing.assert_allclose(slope, torch_slope, atol=1e-6)  # float32 rounding; a step is 0.16


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_agrees_at_nan_and_infinity(name):
    x = np.asarray([np.nan, np.inf, -np.inf, 1e300, -1e300])
    (y, slope), (torch_y, torch_slope) = both(name, x)
    assert np.isnan(y[0])
    np.testing.assert_array_equal(y, torch_y)
    np.testing.assert_array_equal(slope, torch_slope)


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "hard_swish", "hard_sigmoid"])
def test_gradient_of_nan_is_not_hidden(name):
    """Where the value is 1 but the incoming gradient NaN, the gradient is NaN in both."""
    torch_x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    TWINS[name](torch_x).backward(torch.full((3,), torch.nan, dtype=torch.float64))
    assert torch_x.grad is not None
    with jax.enable_x64(True):
        y, pull = jax.vjp(ACTIVATIONS[name], jnp.ones(3))
        (slope,) = pull(jnp.full_like(y, jnp.nan))
    np.testing.assert_array_equal(np.asarray(slope), torch_x.grad.numpy())
