"""The three forms of a ResNeXt block are one function, at one cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxblocks.blocks import (
    BottleNeck,
    ResNeXtBranches,
    cardinality_width,
    copy_grouped_weights,
)
from flaxblocks.blocks.resnext_forms import transform_cost
from flaxblocks.inspect.summary import count_parameters
from flaxblocks.parity import relative_error

TABLE_2 = {1: (64, 69_632), 2: (40, 69_760), 4: (24, 69_888), 8: (14, 71_456), 32: (4, 70_144)}
FORMS = pytest.mark.parametrize("join", ["sum", "concatenate"])


def grouped(in_features=64, out_features=256, cardinality=32, width=4, **options) -> BottleNeck:
    form_c = {"hidden_features": cardinality * width, "groups": cardinality, "bias": False}
    options = {**form_c, "shortcut_activation": None, "rngs": nnx.Rngs(0), **options}
    return BottleNeck(in_features, out_features, **options)


def scramble(module: nnx.Module) -> None:
    """Batch norms away from the start, where a swapped pair of them would not show."""
    random = np.random.default_rng(1)
    for _, variable in nnx.iter_graph(module):
        if isinstance(variable, nnx.Variable) and variable.ndim == 1:
            variable.set_value(jnp.asarray(random.uniform(0.5, 1.5, variable.shape)))


@FORMS
@pytest.mark.parametrize(("in_features", "stride"), [(256, 1), (64, 1), (256, 2)])
def test_the_three_forms_agree_in_inference_and_in_training(join, in_features, stride):
    with jax.enable_x64(True):
        options = {"stride": stride, "param_dtype": jnp.float64}
        block = grouped(in_features, **options)
        scramble(block)
        branches = ResNeXtBranches(in_features, 256, join=join, rngs=nnx.Rngs(1), **options)
        copy_grouped_weights(block, branches)
        assert count_parameters(branches) == count_parameters(block)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 7, in_features)))
        for mode in ("eval", "train", "eval"):  # at last with the statistics that training left
            getattr(block, mode)()
            getattr(branches, mode)()
            # sums of 128 or 256 products in another order
            assert relative_error(np.asarray(branches(x)), np.asarray(block(x))) <= 1e-13


@FORMS
def test_the_statistics_of_every_branch_come_along(join):
    block: Any = grouped()
    branches: Any = ResNeXtBranches(64, 256, join=join, rngs=nnx.Rngs(1))
    block.conv.norm.num_batches_tracked.set_value(jnp.asarray(5))
    copy_grouped_weights(block, branches)
    counts = [branch.conv.norm.num_batches_tracked[...] for branch in branches.branches]
    assert [int(count) for count in counts] == [5] * 32
    assert counts[0].dtype == jnp.int32


@FORMS
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_result_has_the_dtype_of_the_computation(join, dtype):
    branches = ResNeXtBranches(8, 8, cardinality=2, join=join, dtype=dtype, rngs=nnx.Rngs(0))
    assert branches(jnp.ones((2, 3, 3, 8))).dtype == dtype


@pytest.mark.parametrize(("cardinality", "row"), TABLE_2.items())
def test_table_2_follows_from_the_cost(cardinality, row):
    width, parameters = row
    assert cardinality_width(cardinality) == width
    assert transform_cost(cardinality, width) == parameters
    norms = 2 * (2 * cardinality * width + 256)
    blocks = [
        grouped(256, cardinality=cardinality, width=width),
        *(
            ResNeXtBranches(
                256, 256, cardinality=cardinality, width=width, join=join, rngs=nnx.Rngs(0)
            )
            for join in ("sum", "concatenate")
        ),
    ]
    assert [count_parameters(block) for block in blocks] == [parameters + norms] * 3


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (lambda: grouped(32), "'in_features': 32"),
        (lambda: grouped(out_features=128), "'out_features': 128"),
        (lambda: grouped(cardinality=16), "'cardinality': 16"),
        (lambda: grouped(width=8), "'width': 8"),
        (lambda: grouped(stride=2), r"'stride': \(2, 2\)"),
        (lambda: grouped(bias=True), "lacks conv.conv.bias"),
        (lambda: grouped(squeeze_excite=4), "squeeze_excite.expand.bias"),
        (lambda: grouped(norm=None), "expand.norm.mean"),
    ],
)
def test_a_block_of_another_form_is_refused_and_nothing_is_copied(block, named):
    branches = ResNeXtBranches(64, 256, rngs=nnx.Rngs(1))
    before = branches.branches[0].reduce.conv.kernel[...]
    with pytest.raises(ValueError, match=rf"`block`.*{named}"):
        copy_grouped_weights(block(), branches)
    assert branches.branches[0].reduce.conv.kernel[...] is before


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cardinality_width(0), r"`cardinality` \(=0\) must be an integer of at least 1"),
        (lambda: cardinality_width(300), r"`cardinality` \(=300\) leaves no channel for a branch"),
        (lambda: cardinality_width(1, 3), r"`features` \(=3\) must be at least 4"),
        (
            lambda: ResNeXtBranches(8, 8, join="product", rngs=nnx.Rngs(0)),  # pyright: ignore[reportArgumentType]
            r"`join` \(='product'\) must be one of 'sum', 'concatenate'",
        ),
        (lambda: ResNeXtBranches(8, 8, width=0, rngs=nnx.Rngs(0)), r"`width` \(=0\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
