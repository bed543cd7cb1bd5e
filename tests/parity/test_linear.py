"""`Linear` against `torch.nn.Linear` in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flaxblocks.nn import Linear
from flaxblocks.parity import relative_error
from flaxblocks.parity.report import FLOAT32_FACTOR
from tests.support import rms


@pytest.mark.parametrize("bias", [True, False])
def test_linear_agrees_with_gradients(bias):
    oracle = torch.nn.Linear(7, 5, bias=bias).double()
    rng = np.random.default_rng(0)
    x, cotangent = rng.standard_normal((3, 2, 7)), rng.standard_normal((3, 2, 5))
    torch_x = torch.from_numpy(x).requires_grad_()
    torch_y = oracle(torch_x)
    (torch_y * torch.from_numpy(cotangent)).sum().backward()
    with jax.enable_x64(True):
        layer = Linear(7, 5, bias=bias, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        layer.kernel[...] = jnp.asarray(oracle.weight.detach().numpy().T)
        if layer.bias is not None:
            layer.bias[...] = jnp.asarray(oracle.bias.detach().numpy())
        graphdef, params = nnx.split(layer)
        y, pull = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x), params, jnp.asarray(x))
        gradients, x_gradient = pull(jnp.asarray(cotangent))
    assert relative_error(np.asarray(y), torch_y.detach().numpy()) <= 1e-12
    assert torch_x.grad is not None
    assert relative_error(np.asarray(x_gradient), torch_x.grad.numpy()) <= 1e-10
    found = nnx.to_pure_dict(gradients)
    assert oracle.weight.grad is not None
    assert relative_error(np.asarray(found["kernel"]), oracle.weight.grad.numpy().T) <= 1e-10
    if bias:
        assert oracle.bias.grad is not None
        assert relative_error(np.asarray(found["bias"]), oracle.bias.grad.numpy()) <= 1e-10


def test_parameters_are_drawn_from_the_interval_of_pytorch():
    oracle, layer = torch.nn.Linear(9, 4096), Linear(9, 4096, rngs=nnx.Rngs(0))
    assert layer.bias is not None
    for ours, theirs in ((layer.kernel, oracle.weight), (layer.bias, oracle.bias)):
        # The maxima of 4,096 uniform draws lie within 0.5% of the bound but once in 10^9.
        largest = float(theirs.detach().abs().max())
        assert abs(float(jnp.abs(ours[...]).max()) / largest - 1) < 5e-3


@pytest.mark.parametrize("batch", [1, 2, 16, 32])
@pytest.mark.parametrize("width", [1280, 1300, 2048])
def test_long_sums_round_no_more_than_in_pytorch(batch, width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, width)).clip(0).astype(np.float32)
    oracle, layer = torch.nn.Linear(width, 1000), Linear(width, 1000, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(oracle.weight.detach().numpy().T)
    layer.bias = nnx.Param(jnp.asarray(oracle.bias.detach().numpy()))
    theirs, ours = oracle(torch.from_numpy(x)).detach().numpy(), np.asarray(layer(jnp.asarray(x)))
    truth = oracle.double()(torch.from_numpy(x.astype(np.float64))).detach().numpy()
    # Added up in one go it is up to four times PyTorch's. The largest of 1,000 errors is luck as
    # well, and goes by the rule of every model.
    assert rms(ours - truth) <= rms(theirs - truth)
    assert relative_error(ours, truth) <= FLOAT32_FACTOR * relative_error(theirs, truth)


@pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 3), (20,)])
@pytest.mark.parametrize("width", [320, 330])
def test_long_sums_are_the_same_map_with_the_same_gradients(leading, width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*leading, width)).astype(np.float32)
    cotangent = rng.standard_normal((*leading, 5)).astype(np.float32)
    layer = Linear(width, 5, bias=False, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    y, pull = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x), params, jnp.asarray(x))
    gradients, x_gradient = pull(jnp.asarray(cotangent))
    kernel = np.asarray(layer.kernel[...], np.float64)
    rows, pulled = x.reshape(-1, width).astype(np.float64), cotangent.reshape(-1, 5)
    for ours, truth in (
        (y, x @ kernel),
        (x_gradient, cotangent @ kernel.T),
        (nnx.to_pure_dict(gradients)["kernel"], rows.T @ pulled),
    ):
        assert ours.shape == truth.shape
        # some tens of roundings of 6e-8
        np.testing.assert_allclose(ours, truth, rtol=0, atol=2e-6 * abs(truth).max(initial=1e-9))
