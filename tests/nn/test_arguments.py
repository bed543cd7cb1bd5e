"""What a layer is given: an array of a floating type and nothing else, as with PyTorch's layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.nn import (
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    GroupNorm,
    Linear,
    MaxPool,
    StochasticDepth,
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    max_pool,
)
from flaxblocks.nn.pool import BlurPool

RNGS = nnx.Rngs(0)
SHAPE = (2, 6, 6, 4)  # of height and channels that no layer tells apart

# Each with the layer of PyTorch's that it is.
LAYERS: dict[str, tuple[Any, torch.nn.Module]] = {
    "Conv": (Conv(4, 8, 3, rngs=RNGS), torch.nn.Conv2d(4, 8, 3)),
    "Conv of one tap": (Conv(4, 8, 1, rngs=RNGS), torch.nn.Conv2d(4, 8, 1)),
    "Conv in groups": (Conv(4, 4, 3, groups=4, rngs=RNGS), torch.nn.Conv2d(4, 4, 3, groups=4)),
    "Linear": (Linear(4, 3, rngs=RNGS), torch.nn.Linear(6, 3)),
    "BatchNorm": (BatchNorm(4), torch.nn.BatchNorm2d(4)),
    "BatchNorm in evaluation": (
        nnx.view(BatchNorm(4), use_running_average=True),
        torch.nn.BatchNorm2d(4).eval(),
    ),
    "BatchNorm without parameters": (
        BatchNorm(4, affine=False, track_running_stats=False),
        torch.nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ),
    "GroupNorm": (GroupNorm(4, num_groups=2, rngs=RNGS), torch.nn.GroupNorm(2, 4)),
}
MEANS: dict[str, tuple[Any, torch.nn.Module]] = {
    "AvgPool": (AvgPool(2), torch.nn.AvgPool2d(2)),
    "avg_pool": (lambda x: avg_pool(x, 2), torch.nn.AvgPool2d(2)),
    "adaptive_avg_pool": (lambda x: adaptive_avg_pool(x, 2), torch.nn.AdaptiveAvgPool2d(2)),
    "global_avg_pool": (global_avg_pool, torch.nn.AdaptiveAvgPool2d(1)),
}
POOLS: dict[str, Any] = {
    **{name: pool for name, (pool, _) in MEANS.items()},
    "BlurPool": BlurPool(),
    "MaxPool": MaxPool(2),
    "max_pool": lambda x: max_pool(x, 2),
    "max_pool of a dilated window": lambda x: max_pool(x, 2, dilation=2),
}
EVERY = pytest.mark.parametrize(
    "layer", [layer for layer, _ in LAYERS.values()] + list(POOLS.values()), ids=[*LAYERS, *POOLS]
)
INTEGERS = ["bool", "uint8", "int8", "int16", "int32"]
WAYS: dict[str, Callable[[Any], Callable]] = {
    "as it is": lambda layer: layer,
    "jax.jit": lambda layer: jax.jit(lambda x: layer(x)),
    "nnx.jit": lambda layer: lambda x: nnx.jit(lambda layer, x: layer(x))(layer, x),
}


def test_every_layer_with_parameters_is_here() -> None:
    layers = [getattr(fb.nn, name) for name in fb.nn.__all__]
    classes = {
        layer for layer in layers if isinstance(layer, type) and issubclass(layer, nnx.Module)
    }
    without_parameters = {AvgPool, Dropout, MaxPool, StochasticDepth}
    assert {type(layer) for layer, _ in LAYERS.values()} == classes - without_parameters


def check_refused(layer: Any, dtype: str) -> None:
    with pytest.raises(ValueError) as caught:
        layer(jnp.ones(SHAPE, dtype))
    message = str(caught.value)
    assert message.startswith(f"`x` (dtype {dtype}) must be of a floating type")
    assert "(x.astype(np.float32) / 255 - mean) / std" in message
    assert "flaxblocks.weights.preprocess" in message


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [*INTEGERS, "complex64"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.untyped
def test_a_type_that_pytorch_refuses_is_refused(name: str, dtype: str, way: str) -> None:
    layer, twin = LAYERS[name]
    with pytest.raises(RuntimeError):
        twin(torch.ones((2, 4, 6, 6), dtype=getattr(torch, dtype)))
    check_refused(WAYS[way](layer), dtype)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", MEANS)
@pytest.mark.untyped
def test_a_mean_of_integers_is_refused_as_by_pytorch(name: str, dtype: str) -> None:
    pool, twin = MEANS[name]
    with pytest.raises(RuntimeError):
        twin(torch.ones((2, 4, 6, 6), dtype=getattr(torch, dtype)))
    check_refused(pool, dtype)


@pytest.mark.untyped
def test_a_blur_of_integers_is_refused() -> None:
    """Its taps, of which each is below 1, would all be 0 in their type."""
    check_refused(BlurPool(), "uint8")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
@pytest.mark.untyped
def test_a_maximum_of_integers_is_theirs_as_in_pytorch(dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    theirs = torch.nn.MaxPool2d(2)(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), 2), theirs.numpy(), strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@EVERY
def test_every_floating_type_is_taken(layer: Any, dtype: str) -> None:
    with jax.enable_x64(True):
        y = layer(jnp.ones(SHAPE, dtype))
        assert jnp.issubdtype(y.dtype, jnp.floating)
        assert y.dtype in (jnp.dtype(dtype), jnp.float32)  # of the input, or of the parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@EVERY
@pytest.mark.untyped
def test_an_array_of_numpy_is_as_good_as_one_of_jax(layer: Any, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(dtype)
    y = layer(x)
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(y, layer(jnp.asarray(x)), strict=True)


@pytest.mark.parametrize("value", [np.zeros(SHAPE).tolist(), None], ids=["list", "None"])
@EVERY
@pytest.mark.untyped
def test_what_is_no_array_is_refused(layer: Any, value: Any) -> None:
    kind = type(value).__name__
    with pytest.raises(ValueError, match=rf"^`x` \(of type {kind}\) must be an array, such as"):
        layer(value)
