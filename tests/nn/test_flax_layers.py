"""The multiply-adds of Flax's own layers, counted by hand."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.inspect.summary import output_shapes
from flaxblocks.nn.layer import multiply_adds_of

RNGS = nnx.Rngs(0)
NUMBERS: Any = np.array([2, 3, 8])
TWO, THREE, EIGHT = NUMBERS

# layer, shape of one image's input, multiply-adds with the bias's at each output or of each number
LAYERS = {
    "a convolution": (lambda: nnx.Conv(3, 8, (3, 3), rngs=RNGS), (10, 12, 3), 120 * 8 * (27 + 1)),
    "without a bias": (
        lambda: nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=RNGS),
        (10, 12, 3),
        120 * 8 * 27,
    ),
    "strided, valid, oblong": (
        lambda: nnx.Conv(4, 6, (3, 5), strides=2, padding="VALID", rngs=RNGS),
        (11, 11, 4),
        5 * 4 * 6 * (3 * 5 * 4 + 1),
    ),
    "in groups": (
        lambda: nnx.Conv(8, 12, (3, 3), feature_group_count=4, rngs=RNGS),
        (5, 5, 8),
        25 * 12 * (9 * 2 + 1),
    ),
    "depthwise and dilated": (
        lambda: nnx.Conv(6, 6, (3, 3), feature_group_count=6, kernel_dilation=2, rngs=RNGS),
        (9, 9, 6),
        81 * 6 * (9 + 1),
    ),
    "of one axis": (lambda: nnx.Conv(3, 4, (3,), rngs=RNGS), (10, 3), 10 * 4 * (9 + 1)),
    "NumPy's integers": (
        lambda: nnx.Conv(THREE, EIGHT, (THREE, THREE), strides=(TWO, TWO), rngs=RNGS),
        (10, 12, 3),
        5 * 6 * 8 * (27 + 1),
    ),
    "linear": (lambda: nnx.Linear(5, 7, rngs=RNGS), (5,), 35 + 7),
    "linear at each pixel": (lambda: nnx.Linear(5, 7, rngs=RNGS), (4, 6, 5), 24 * 35 + 7),
    "linear with an adapter": (
        lambda: nnx.LoRALinear(5, 7, lora_rank=2, rngs=RNGS),
        (4, 5),
        4 * 35 + 7 + 4 * (5 * 2 + 2 * 7),
    ),
    "an adapter of a layer": (
        lambda: nnx.LoRA(5, 2, 7, base_module=fb.nn.Linear(5, 7, rngs=RNGS), rngs=RNGS),
        (5,),
        35 + 7 + 5 * 2 + 2 * 7,
    ),
    "linear over two axes": (
        lambda: nnx.LinearGeneral((5, 3), (2, 4), axis=(-2, -1), rngs=RNGS),
        (6, 5, 3),
        6 * 8 * 15 + 8,
    ),
    "linear by itself at each place": (
        lambda: nnx.LinearGeneral(5, 4, batch_axis={0: 1, 1: 6}, rngs=RNGS),
        (6, 5),
        6 * 4 * 5 + 6 * 4,
    ),
    "an einsum": (
        lambda: nnx.Einsum("nta,hab->nthb", (8, 2, 4), (8, 4), rngs=RNGS),
        (11, 2),
        11 * 8 * 4 * 2 + 32,
    ),
    "an einsum at any place": (
        lambda: nnx.Einsum("...a,ab->...b", (3, 4), rngs=RNGS),
        (5, 6, 3),
        30 * 4 * 3,
    ),
    "transposed": (
        lambda: nnx.ConvTranspose(3, 8, (3, 3), strides=(2, 2), rngs=RNGS),
        (5, 6, 3),
        30 * 9 * 24 + 10 * 12 * 8,
    ),
    "transposed, valid and dilated": (
        lambda: nnx.ConvTranspose(
            3, 8, (3, 4), 2, padding="VALID", kernel_dilation=(2, 1), use_bias=False, rngs=RNGS
        ),
        (5, 6, 3),
        30 * 12 * 24,
    ),
    "transposed, narrower than its stride": (
        lambda: nnx.ConvTranspose(3, 8, (2, 2), 3, padding="VALID", use_bias=False, rngs=RNGS),
        (5, 6, 3),
        30 * 4 * 24,
    ),
    "transposed twice, round about": (
        lambda: nnx.ConvTranspose(
            3,
            8,
            (3, 3),
            (2, 1),
            padding="CIRCULAR",
            transpose_kernel=True,
            use_bias=False,
            rngs=RNGS,
        ),
        (5, 6, 3),
        30 * 9 * 24,
    ),
    "batch norm": (lambda: nnx.BatchNorm(6, rngs=RNGS), (4, 4, 6), 12),
    "layer norm": (lambda: nnx.LayerNorm(6, rngs=RNGS), (4, 4, 6), 12),
    "group norm": (lambda: nnx.GroupNorm(6, num_groups=2, rngs=RNGS), (4, 4, 6), 12),
    "instance norm": (lambda: nnx.InstanceNorm(6, rngs=RNGS), (4, 4, 6), 12),
    "root mean square norm": (lambda: nnx.RMSNorm(6, rngs=RNGS), (4, 4, 6), 6),
}


@pytest.mark.parametrize(("make", "shape", "count"), LAYERS.values(), ids=LAYERS)
def test_flaxs_own_layers_are_counted(make, shape, count):
    layer = make()
    own = {".".join(map(str, path)): module for path, module in nnx.iter_modules(layer)}
    outputs = output_shapes(layer, shape)
    assert outputs[""] == layer(jnp.ones((1, *shape))).shape[1:]
    found = [multiply_adds_of(own[path], outputs[path]) for path in outputs]
    assert sum(n or 0 for n in found) == count
    assert None not in found
    assert json.dumps(found)  # plain integers


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_a_transposed_convolution_costs_its_kernel_at_each_pixel_of_its_input(
    kernel, stride, padding
):
    layer = nnx.ConvTranspose(2, 3, (kernel, 3), (stride, 1), padding=padding, rngs=RNGS)
    shape = jax.eval_shape(layer, jnp.ones((1, 7, 5, 2))).shape[1:]
    assert multiply_adds_of(layer, shape) == 7 * 5 * kernel * 3 * 6 + math.prod(shape)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nnx.ConvTranspose(3, 8, (3, 3), padding=1, rngs=RNGS), (8, 8, 8)),
        (nnx.Einsum("nsa,ab->nb", (3, 4), rngs=RNGS), (4,)),  # the input's s is summed too
        (nnx.MultiHeadAttention(2, 8, decode=False, rngs=RNGS), (5, 8)),
        (nnx.PReLU(), (5, 8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_rule_is_known_for_is_not_counted_as_nothing(layer, shape):
    assert multiply_adds_of(layer, shape) is None


def test_what_has_no_parameters_costs_nothing():
    assert multiply_adds_of(fb.nn.MaxPool(2), (5, 8, 3)) == 0
    assert multiply_adds_of(nnx.Dropout(0.5), (5, 8, 3)) == 0
