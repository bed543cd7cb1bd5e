"""Batch and group norm against PyTorch's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flaxblocks.nn import BatchNorm, GroupNorm
from flaxblocks.parity import relative_error

FEATURES = 6
OPTIONS = {
    "default": {},
    "momentum": {"momentum": 0.3},
    "cumulative": {"momentum": None},
    "eps": {"eps": 0.5},
    "not affine": {"affine": False},
    "not tracked": {"track_running_stats": False},
    "neither": {"affine": False, "track_running_stats": False},
}


def batches(count=4):
    """Channels of different means and deviations, and a few values for each: 8 of them."""
    rng = np.random.default_rng(0)
    deviation, mean = 0.1 + np.arange(FEATURES), 3 - np.arange(FEATURES)
    return [mean + deviation * rng.standard_normal((2, 2, 2, FEATURES)) for _ in range(count)]


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def randomise(norm, oracle):
    rng = np.random.default_rng(1)
    if oracle.affine:
        for ours, theirs in ((norm.scale, oracle.weight), (norm.bias, oracle.bias)):
            value = rng.standard_normal(FEATURES)
            theirs.data = torch.from_numpy(value)
            ours[...] = jnp.asarray(value)


@pytest.mark.parametrize("name", OPTIONS)
def test_batch_norm_agrees_over_several_batches_and_in_evaluation(name):
    oracle = torch.nn.BatchNorm2d(FEATURES, **OPTIONS[name]).double()
    with jax.enable_x64(True):
        norm = BatchNorm(FEATURES, **OPTIONS[name], param_dtype=jnp.float64)
        randomise(norm, oracle)
        for number, x in enumerate(batches(), start=1):
            if number == 4:
                norm.eval()
                oracle.eval()
            y = np.asarray(norm(jnp.asarray(x)))
            assert relative_error(y, channels_last(oracle(channels_first(x)))) <= 1e-12
            if norm.mean is not None and norm.var is not None:
                assert oracle.running_mean is not None
                assert oracle.running_var is not None
                for ours, theirs in (
                    (norm.mean, oracle.running_mean),
                    (norm.var, oracle.running_var),
                ):
                    assert relative_error(np.asarray(ours[...]), theirs.numpy()) <= 1e-12
                assert norm.num_batches_tracked is not None
                assert oracle.num_batches_tracked is not None
                assert int(norm.num_batches_tracked[...]) == int(oracle.num_batches_tracked)
                assert int(norm.num_batches_tracked[...]) == min(number, 3)


@pytest.mark.parametrize("evaluation", [False, True])
def test_batch_norm_gradients_agree(evaluation):
    x = batches(1)[0]
    cotangent = np.random.default_rng(2).standard_normal(x.shape)
    oracle = torch.nn.BatchNorm2d(FEATURES).double().train(not evaluation)
    torch_x = channels_first(x).requires_grad_()
    with jax.enable_x64(True):
        norm = BatchNorm(FEATURES, param_dtype=jnp.float64)
        norm.set_attributes(use_running_average=evaluation)
        randomise(norm, oracle)
        (oracle(torch_x) * channels_first(cotangent)).sum().backward()
        graphdef, params, rest = nnx.split(norm, nnx.Param, ...)

        def loss(params, x):
            return jnp.sum(nnx.merge(graphdef, params, rest, copy=True)(x) * cotangent)

        gradients, x_gradient = jax.jit(jax.grad(loss, (0, 1)))(params, jnp.asarray(x))
    for mine, theirs in (("scale", oracle.weight), ("bias", oracle.bias)):
        assert theirs.grad is not None
        found = np.asarray(nnx.to_pure_dict(gradients)[mine])
        assert relative_error(found, theirs.grad.numpy()) <= 1e-10
    assert torch_x.grad is not None
    assert relative_error(np.asarray(x_gradient), channels_last(torch_x.grad)) <= 1e-10


def test_batch_norm_of_vectors_agrees():
    x = np.random.default_rng(0).standard_normal((5, FEATURES))
    oracle = torch.nn.BatchNorm1d(FEATURES).double()
    with jax.enable_x64(True):
        y = np.asarray(BatchNorm(FEATURES, param_dtype=jnp.float64)(jnp.asarray(x)))
    assert relative_error(y, oracle(torch.from_numpy(x)).detach().numpy()) <= 1e-12


def test_both_refuse_one_value_per_channel():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(FEATURES)(torch.zeros(1, FEATURES, 1, 1))
    with pytest.raises(ValueError, match="1 value per channel"):
        BatchNorm(FEATURES)(jnp.zeros((1, 1, 1, FEATURES)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(FEATURES, track_running_stats=False).eval()(
            torch.zeros(1, FEATURES, 1, 1)
        )
    norm = BatchNorm(FEATURES, track_running_stats=False)
    norm.eval()
    with pytest.raises(ValueError, match="1 value per channel"):
        norm(jnp.zeros((1, 1, 1, FEATURES)))


@pytest.mark.parametrize("options", [{"num_groups": 1}, {"num_groups": 3}, {"num_groups": 6}])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_group_norm_agrees(options, eps):
    x = batches(1)[0]
    cotangent = np.random.default_rng(2).standard_normal(x.shape)
    oracle = torch.nn.GroupNorm(options["num_groups"], FEATURES, eps=eps).double()
    torch_x = channels_first(x).requires_grad_()
    with jax.enable_x64(True):
        norm = GroupNorm(FEATURES, **options, eps=eps, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        randomise(norm, oracle)
        torch_y = oracle(torch_x)
        (torch_y * channels_first(cotangent)).sum().backward()
        y, pull = jax.vjp(norm, jnp.asarray(x))
        (gradient,) = pull(jnp.asarray(cotangent))
    assert relative_error(np.asarray(y), channels_last(torch_y)) <= 1e-12
    assert torch_x.grad is not None
    assert relative_error(np.asarray(gradient), channels_last(torch_x.grad)) <= 1e-10


def test_group_norm_of_a_large_mean_does_not_cancel():
    x = (1000 + 0.1 * np.random.default_rng(0).standard_normal((2, 9, 9, 8))).astype(np.float32)
    norm = GroupNorm(8, num_groups=2, rngs=nnx.Rngs(0))
    exact = torch.nn.GroupNorm(2, 8).double()(channels_first(x).double())
    # The float32 mean is off by a few units of 6e-5; E[x^2] - E[x]^2 would be off by 0.06,
    # six times the variance.
    np.testing.assert_allclose(norm(jnp.asarray(x)), channels_last(exact), atol=1e-2)
