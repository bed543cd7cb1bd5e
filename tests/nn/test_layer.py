"""A layer says all that there is to know of it: a user's own is one class."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import lax

import flaxblocks as fb
from flaxblocks.convert.keymap import layouts_of
from flaxblocks.inspect.draw import draw_block
from flaxblocks.inspect.summary import summarize
from flaxblocks.nn.layer import multiply_adds_of, title_of, torch_names_of

STRIDE = 2


class Upsampled(nnx.Module):
    """`torch.nn.ConvTranspose2d`, as somebody would write it who needs one."""

    torch_names = (("kernel", "weight", (2, 3, 0, 1)), ("bias", "bias"))
    title = "4x4 upsampling"

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        shape = (4, 4, in_features, out_features)
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x,
            self.kernel[::-1, ::-1],
            window_strides=(1, 1),
            padding=[(2, 2), (2, 2)],
            lhs_dilation=(STRIDE, STRIDE),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y if self.bias is None else y + self.bias[...]

    def multiply_adds(self, shape: tuple[int, ...]) -> int | None:
        height, width, _ = shape
        bias = 0 if self.bias is None else math.prod(shape)
        return height // STRIDE * (width // STRIDE) * math.prod(self.kernel.shape) + bias


class Decoder(nnx.Module):
    """A block with that layer in it."""

    layouts = {"article": lambda _: [("up", "0"), ("head", "1")]}

    def __init__(self):
        self.up = Upsampled(6, 5)
        self.head = fb.nn.Conv(5, 3, 1, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.up(x))


def pytorchs(bias: bool = True) -> torch.nn.ConvTranspose2d:
    torch.manual_seed(0)
    return torch.nn.ConvTranspose2d(6, 5, 4, stride=STRIDE, padding=1, bias=bias)


def outputs(ours: Any, theirs: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 6)).astype(np.float32)
    y = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
    return np.asarray(ours(jnp.asarray(x))), y.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_a_users_own_layer_is_converted(bias):
    ours, theirs = Upsampled(6, 5, bias), pytorchs(bias)
    assert layouts_of(ours) == ("torch", "flax")
    assert fb.load_torch(ours, theirs.state_dict()).layout == "torch"
    np.testing.assert_allclose(*outputs(ours, theirs), rtol=0, atol=1e-6)  # float32 rounding
    state = fb.to_torch(ours, "torch")
    assert list(state) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.numpy())


def test_a_users_own_layer_is_converted_within_a_block():
    ours, theirs = Decoder(), torch.nn.Sequential(pytorchs(), torch.nn.Conv2d(5, 3, 1))
    fb.load_torch(ours, theirs.state_dict())
    np.testing.assert_allclose(*outputs(ours, theirs), rtol=0, atol=1e-6)  # float32 rounding
    report = fb.parity.compare(ours, theirs, np.ones((2, 7, 5, 6), np.float32))
    assert report.ok, str(report)


def test_a_users_own_layer_is_counted_and_drawn():
    first, second = summarize(Decoder(), (7, 5), in_channels=6)
    assert first.multiply_adds == 35 * 16 * 30 + 14 * 10 * 5
    assert second.multiply_adds == 14 * 10 * 3 * (5 + 1)
    assert first.uncounted == second.uncounted == ()
    assert "4x4 upsampling" in draw_block(Decoder(), 6, (7, 5))


class Fused(fb.nn.Conv):
    """A layer of this package with a variable more, and a name that depends on it."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.gain = nnx.Param(jnp.ones(self.out_features))

    @property
    def torch_names(self) -> Any:
        return (*fb.nn.Conv.torch_names, fb.nn.TorchName("gain", "gain"))


def test_a_class_of_a_layer_adds_to_what_it_says():
    layer = Fused(3, 4, 3, stride=2, bias=False, rngs=nnx.Rngs(0))
    assert list(fb.to_torch(layer, "torch")) == ["weight", "gain"]
    assert title_of(layer) == "3x3 conv, stride 2"
    assert multiply_adds_of(layer, (2, 2, 4)) == 16 * 27


def test_flaxs_layers_may_be_overruled():
    class Scale(nnx.LayerNorm):
        torch_names = (("scale", "gamma"),)
        title = "scale"

        def multiply_adds(self, shape):
            return math.prod(shape)

    layer = Scale(4, use_bias=False, rngs=nnx.Rngs(0))
    assert list(fb.to_torch(layer)) == ["gamma"]
    assert title_of(layer) == "scale"
    assert multiply_adds_of(layer, (2, 2, 4)) == 16


def test_a_block_says_nothing_of_names():
    block: Any = fb.blocks.ConvNormAct(3, 8, 3, rngs=nnx.Rngs(0))
    assert torch_names_of(block) is None
    assert torch_names_of(block.conv.kernel) is None
    assert title_of(block) == "3x3 conv"
    block.conv = nnx.ConvTranspose(3, 8, (3, 3), rngs=nnx.Rngs(0))
    assert title_of(block) == "ConvTranspose"


def test_attributes_of_these_names_that_say_something_else_are_left_alone():
    class Article(nnx.Module):
        def __init__(self):
            self.title = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
            self.multiply_adds = 7

        def __call__(self, x):
            return self.title(x)

    assert title_of(Article()) is None
    assert multiply_adds_of(Article(), (3,)) == 0


def test_every_layer_of_the_package_speaks_for_itself():
    exported = [getattr(fb.nn, name) for name in fb.nn.__all__]
    layers = [c for c in exported if isinstance(c, type) and issubclass(c, nnx.Module)]
    assert fb.nn.Conv in layers
    for layer in layers:
        assert hasattr(layer, "torch_names"), layer
        assert hasattr(layer, "multiply_adds"), layer
