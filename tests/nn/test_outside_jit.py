"""Gradients outside of `jax.jit`, as in a notebook: what one call compiled serves the next."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.nn import AvgPool, BatchNorm, Conv, GroupNorm, Linear, MaxPool
from flaxblocks.nn.conv import MOST_PRODUCTS

X = jax.random.normal(jax.random.key(0), (2, 9, 8, 16))
WIDE = MOST_PRODUCTS // 9 + 1  # channels of a group that are too many for products
LAYERS = {
    "1x1": lambda rngs: Conv(16, 8, 1, stride=2, rngs=rngs),
    "dense": lambda rngs: Conv(16, 8, 3, rngs=rngs),
    "depthwise": lambda rngs: Conv(16, 16, 3, padding=1, groups=16, rngs=rngs),
    "narrow groups": lambda rngs: Conv(16, 16, 3, groups=4, rngs=rngs),
    "wide groups": lambda rngs: nnx.Sequential(
        Conv(16, 2 * WIDE, 1, rngs=rngs), Conv(2 * WIDE, 2, 3, groups=2, rngs=rngs)
    ),
    "linear": lambda rngs: Linear(16, 3, rngs=rngs),
    "long sums": lambda rngs: nnx.Sequential(
        lambda x: x.reshape(2, -1), Linear(9 * 8 * 16, 3, rngs=rngs)
    ),
    "batch norm": lambda rngs: BatchNorm(16, rngs=rngs),
    "group norm": lambda rngs: GroupNorm(16, num_groups=4, rngs=rngs),
    "max pool": lambda rngs: nnx.Sequential(Conv(16, 4, 1, rngs=rngs), MaxPool(3, stride=2)),
    "average pool": lambda rngs: nnx.Sequential(Conv(16, 4, 1, rngs=rngs), AvgPool(3, stride=2)),
    "inverted bottleneck": lambda rngs: fb.blocks.MBConv(16, 16, squeeze_excite=4, rngs=rngs),
    "silu": lambda rngs: fb.blocks.ConvNormAct(16, 4, 3, activation="silu", rngs=rngs),
    "hard_swish": lambda rngs: fb.blocks.ConvNormAct(16, 4, 3, activation="hard_swish", rngs=rngs),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_second_gradient_compiles_nothing(name, caplog):
    graphdef, params, rest = nnx.split(LAYERS[name](nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)))

    def compiled() -> list[str]:
        caplog.clear()
        with jax.log_compiles():
            jax.grad(loss, argnums=(0, 1))(params, X)
        return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]

    assert compiled()
    assert compiled() == []
