"""Convolution against `torch.nn.functional.conv2d` and `torch.nn.Conv2d`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flaxblocks.nn import Conv, conv2d
from flaxblocks.parity import relative_error
from tests.support import rms


@dataclass(frozen=True)
class Case:
    """A convolution; pairs are (height, width)."""

    widths: tuple[int, int] = (4, 6)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, int] = (9, 7)


CASES = {
    "3x3": Case(padding=(1, 1)),
    "3x3 valid": Case(),
    "stride 2": Case(stride=(2, 2), padding=(1, 1)),
    "stride 2 even image": Case(stride=(2, 2), padding=(1, 1), size=(8, 6)),
    "asymmetric": Case(kernel=(3, 1), stride=(1, 2), padding=(1, 0)),
    "even kernel": Case(kernel=(2, 4), padding=(1, 2)),
    "wide padding": Case(padding=(3, 2)),
    "dilation": Case(padding=(2, 1), dilation=(2, 1), stride=(2, 1)),
    "stride over kernel": Case(kernel=(2, 2), stride=(3, 4)),
    "one by one": Case(kernel=(1, 1)),
    "one by one stride 2": Case(kernel=(1, 1), stride=(2, 2)),
    "one by one padded": Case(kernel=(1, 1), padding=(1, 1)),
    "kernel over image": Case(kernel=(5, 5), padding=(2, 2), size=(2, 3)),
    "grouped": Case(padding=(1, 1), groups=2),
    "grouped one by one": Case(kernel=(1, 1), groups=2, stride=(2, 1)),
    "depthwise": Case((4, 4), padding=(1, 1), groups=4),
    "depthwise valid": Case((4, 4), groups=4),
    "depthwise stride 2": Case((4, 4), stride=(2, 2), padding=(1, 1), groups=4, size=(8, 7)),
    "depthwise multiplier": Case((4, 12), padding=(1, 1), groups=4),
    "depthwise multiplier stride": Case((3, 6), (5, 3), (2, 3), (2, 0), groups=3),
    "depthwise dilation": Case((4, 4), padding=(1, 3), dilation=(2, 3), groups=4),
    "depthwise even kernel": Case((4, 4), (2, 4), (1, 2), (1, 1), groups=4),
    "depthwise wide padding": Case((4, 4), padding=(4, 3), stride=(2, 1), groups=4),
    "depthwise stride over kernel": Case((4, 4), (2, 1), (4, 3), groups=4),
    "depthwise one by one": Case((4, 8), (1, 1), (2, 2), groups=4),
    "depthwise kernel over image": Case((4, 4), (5, 5), padding=(2, 2), groups=4, size=(2, 1)),
}


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def from_torch(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", CASES)
def test_conv2d_agrees(name):
    case = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *case.size, case.widths[0]))
    kernel = rng.standard_normal((*case.kernel, case.widths[0] // case.groups, case.widths[1]))
    torch_x = to_torch(x).requires_grad_()
    torch_kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()
    torch_y = torch.nn.functional.conv2d(
        torch_x, torch_kernel, None, case.stride, case.padding, case.dilation, case.groups
    )
    cotangent = rng.standard_normal(torch_y.shape)
    (torch_y * torch.from_numpy(cotangent)).sum().backward()
    assert torch_x.grad is not None
    assert torch_kernel.grad is not None

    @jax.jit
    def run(x, kernel, cotangent):
        y, pull = jax.vjp(
            lambda x, kernel: conv2d(
                x,
                kernel,
                stride=case.stride,
                padding=case.padding,
                dilation=case.dilation,
                groups=case.groups,
            ),
            x,
            kernel,
        )
        return y, *pull(cotangent)

    with jax.enable_x64(True):
        y, x_gradient, kernel_gradient = run(x, kernel, cotangent.transpose(0, 2, 3, 1))
    assert relative_error(np.asarray(y), from_torch(torch_y)) <= 1e-12
    assert relative_error(np.asarray(x_gradient), from_torch(torch_x.grad)) <= 1e-10
    reference = torch_kernel.grad.numpy().transpose(2, 3, 1, 0)
    assert relative_error(np.asarray(kernel_gradient), reference) <= 1e-10


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_agrees(groups, bias):
    theirs = torch.nn.Conv2d(4, 8, 3, 2, 1, groups=groups, bias=bias).double()
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 4))
    with jax.enable_x64(True):
        options = {"stride": 2, "padding": 1, "groups": groups, "bias": bias}
        ours = Conv(4, 8, 3, **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        ours.kernel[...] = jnp.asarray(theirs.weight.detach().numpy().transpose(2, 3, 1, 0))
        if ours.bias is not None:
            assert theirs.bias is not None
            ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
        y = np.asarray(ours(jnp.asarray(x)))
    assert relative_error(y, from_torch(theirs(to_torch(x)))) <= 1e-12


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("widths", [(216, 18), (960, 240), (1280, 1000)])
def test_a_gates_sums_round_hardly_more_than_pytorchs(widths: tuple[int, int], batch):
    """Behind a mean over all pixels no rounding is averaged out any more."""
    errors = np.array([rounding(widths, batch, seed) for seed in range(16)])  # of few numbers each
    ours, theirs = np.sqrt((errors**2).mean(0))
    # Added up in one go it is up to twice PyTorch's.
    assert ours <= 1.25 * theirs


def rounding(widths: tuple[int, int], batch: int, seed: int) -> tuple[float, float]:
    """The error of one draw, ours and PyTorch's."""
    torch.manual_seed(seed)
    theirs, ours = torch.nn.Conv2d(*widths, 1), Conv(*widths, 1, rngs=nnx.Rngs(0))
    assert theirs.bias is not None
    ours.kernel[...] = jnp.asarray(theirs.weight.detach().numpy().transpose(2, 3, 1, 0))
    ours.bias = nnx.Param(jnp.asarray(theirs.bias.detach().numpy()))
    x = np.random.default_rng(seed).standard_normal((batch, 1, 1, widths[0])).clip(0)
    x = x.astype(np.float32)
    y = np.asarray(_jitted(ours, jnp.asarray(x)))
    torch_y = from_torch(theirs(to_torch(x)))
    truth = from_torch(theirs.double()(to_torch(x.astype(np.float64))))
    return rms(y - truth), rms(torch_y - truth)


@nnx.jit
def _jitted(conv: Conv, x: jax.Array) -> jax.Array:
    return conv(x)


@pytest.mark.parametrize("groups", [1, 8])
def test_parameters_are_drawn_from_the_interval_of_pytorch(groups):
    theirs = torch.nn.Conv2d(8, 4096, 3, groups=groups)
    ours = Conv(8, 4096, 3, groups=groups, rngs=nnx.Rngs(0))
    assert ours.bias is not None
    assert theirs.bias is not None
    for mine, reference in ((ours.kernel, theirs.weight), (ours.bias, theirs.bias)):
        # The maxima of 4,096 uniform draws lie within 0.5% of the bound but once in 10^9.
        largest = float(reference.detach().abs().max())
        assert abs(float(jnp.abs(mine[...]).max()) / largest - 1) < 5e-3
