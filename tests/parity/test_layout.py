"""Outputs of PyTorch in either layout: modules that permute, as ConvNeXt's do."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torchvision.models.convnext import CNBlock

import flaxblocks as fb
from flaxblocks.nn import Conv, Linear


class Block(nnx.Module):
    """torchvision's `CNBlock`, which works in NHWC from its second layer to its last but one."""

    layouts = {
        "torchvision": lambda _: [
            ("gamma", "layer_scale"),
            ("depthwise", "block.0"),
            ("depthwise", "block.1", "output"),
            ("norm", "block.2"),
            ("expand", "block.3"),
            ("project", "block.5"),
            ("project", "block.6", "output"),
        ]
    }

    def __init__(self, features: int):
        rngs = nnx.Rngs(0)
        self.depthwise = Conv(features, features, 7, padding=3, groups=features, rngs=rngs)
        self.norm = nnx.LayerNorm(features, use_fast_variance=False, rngs=rngs)
        self.expand = Linear(features, 4 * features, rngs=rngs)
        self.project = Linear(4 * features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones((features, 1, 1)))

    def __call__(self, x):
        return x + self.gamma[...][:, 0, 0] * self.inner(x)

    def inner(self, x):
        y = self.expand(self.norm(self.depthwise(x)))
        return self.project(nnx.gelu(y, approximate=False))


class Inside(Block):
    """A block whose own output is NHWC in PyTorch."""

    def __call__(self, x):
        return self.inner(x)


class TorchInside(CNBlock):
    def forward(self, input):
        return self.block[:-1](input)


class Turned(Block):
    """Height and width change places in a layer."""

    def inner(self, x):
        y = self.expand(self.norm(self.depthwise(x)).swapaxes(1, 2)).swapaxes(1, 2)
        return self.project(nnx.gelu(y, approximate=False))


def pair(ours: type[Block], theirs: type[CNBlock], features: int) -> tuple[Block, CNBlock]:
    """Both with the same random weights."""
    oracle = theirs(features, 0.5, 0.0)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    block = ours(features)
    fb.load_torch(block, oracle.state_dict())
    return block, oracle


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *shape))


# The last is its own shape in both layouts.
SIZES = pytest.mark.parametrize("shape", [(9, 5, 6), (4, 6, 6), (7, 7, 7)])


@SIZES
@pytest.mark.parametrize("kinds", [(Block, CNBlock), (Inside, TorchInside)])
def test_modules_that_work_in_either_layout_agree(kinds, shape):
    block, oracle = pair(*kinds, features=shape[-1])
    report = fb.parity.compare(block, oracle, image(*shape), grad=True)
    assert report.first_departure is None, str(report)
    outputs = {row.foreign: row for row in report.rows if row.kind == "module"}
    assert outputs["block.3"].shape == (2, *shape[:2], 4 * shape[-1])
    assert outputs["block.2"].shape == outputs["block.0"].shape == (2, *shape)
    narrow = [row.ours32 for row in report.rows if row.ours32 is not None]
    assert max(narrow) < 1e-4  # float32 in the layout that float64 has


@SIZES
def test_a_wrong_number_departs_in_either_layout(shape):
    block, oracle = pair(Block, CNBlock, features=shape[-1])
    assert block.norm.bias is not None
    block.norm.bias[...] += jnp.zeros(shape[-1]).at[1].set(1e-3)
    report = fb.parity.compare(block, oracle, image(*shape), float32=False)
    departure = report.first_departure
    assert departure is not None
    assert departure.foreign == "block.2"
    assert departure.relative < 1e-2  # it is laid as ours all the same
    names = [row.foreign for row in report.rows if row.departs and row.kind == "module"]
    assert names == ["block.2", "block.3", "block.5", "block.6", "(output)"]


def test_height_for_width_departs_where_the_shapes_are_equal():
    block, oracle = pair(Turned, CNBlock, features=7)
    report = fb.parity.compare(block, oracle, image(7, 7, 7), float32=False)
    names = [row.foreign for row in report.rows if row.departs]
    assert names == ["block.3"]


class Shaped(nnx.Module):
    """`(N, H, W, C)` in another shape."""

    def __init__(self, *shape: int):
        self.shape = shape

    def __call__(self, x):
        return x.reshape(x.shape[0], *self.shape, x.shape[-1])


class Tokens(nnx.Module):
    """Outputs of three and of five axes, which PyTorch has with the channels first and last."""

    layouts = {
        "article": lambda _: [
            ("tokens", "flat", "output"),
            ("linear", "linear"),
            ("volume", "volume", "output"),
            ("volume", "last", "output"),
        ]
    }

    def __init__(self, height: int, width: int, features: int):
        self.tokens = Shaped(height * width)
        self.linear = Linear(features, features, rngs=nnx.Rngs(0))
        self.volume = Shaped(1, height, width)

    def __call__(self, x):
        return self.volume(self.linear(self.tokens(x)))


class TorchTokens(torch.nn.Module):
    def __init__(self, height: int, width: int, features: int):
        super().__init__()
        self.flat = torch.nn.Flatten(2)  # (N, C, L)
        self.linear = torch.nn.Linear(features, features)  # (N, L, C)
        self.volume = torch.nn.Unflatten(2, (1, height, width))  # (N, C, 1, H, W)
        self.last = torch.nn.Identity()  # (N, 1, H, W, C)

    def forward(self, x):
        return self.last(self.volume(self.linear(self.flat(x).mT).mT).permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 2, 4), (1, 1, 1)])
def test_outputs_of_three_and_of_five_axes_agree_in_either_layout(shape):
    model, oracle = Tokens(*shape), TorchTokens(*shape)
    fb.load_torch(model, oracle.state_dict())
    report = fb.parity.compare(model, oracle, image(*shape), grad=True)
    assert report.first_departure is None, str(report)
    shapes = {row.foreign: row.shape for row in report.rows if row.kind == "module"}
    height, width, features = shape
    assert shapes["flat"] == shapes["linear"] == (2, height * width, features)
    assert shapes["volume"] == shapes["last"] == shapes["(output)"] == (2, 1, *shape)
