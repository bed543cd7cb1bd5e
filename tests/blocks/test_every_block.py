"""What holds for every block: its types, what a call changes, its initialisers, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxblocks import blocks
from flaxblocks.blocks import ConvNormAct
from flaxblocks.nn import BatchNorm, Conv
from flaxblocks.nn.init import zeros
from tests.support import BLOCKS, block_id, output_of


def fresh(case, **options):
    name, widths, own = case
    return getattr(blocks, name)(*widths, **own, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("case", BLOCKS, ids=block_id)
def test_bfloat16_computes_with_float32_parameters(case):
    block = nnx.eval_shape(lambda: fresh(case, dtype=jnp.bfloat16))
    for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(block))):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jax.ShapeDtypeStruct((2, 9, 7, case[1][0]), dtype)
        assert nnx.eval_shape(lambda block, x: block(x), block, x).dtype == jnp.bfloat16
    narrow = nnx.eval_shape(lambda: fresh(case, param_dtype=jnp.bfloat16))
    for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(narrow, nnx.Param))):
        assert leaf.dtype == jnp.bfloat16


# One of each block runs; its options share the arithmetic.
ONE_OF_EACH = [case for i, case in enumerate(BLOCKS) if case[0] not in {c[0] for c in BLOCKS[:i]}]


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=block_id)
def test_input_is_not_changed_and_only_statistics_are(case):
    block = fresh(case)
    x = np.random.default_rng(0).standard_normal((2, 9, 7, case[1][0])).astype(np.float32)
    given = jnp.asarray(x)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(block, nnx.Param)))
    block.train()
    training = nnx.jit(lambda block, x: block(x))(block, given)
    np.testing.assert_array_equal(given, x)
    jax.tree.map(
        np.testing.assert_array_equal,
        params,
        nnx.to_pure_dict(nnx.state(block, nnx.Param)),
    )
    counts = [
        int(norm.num_batches_tracked[...])
        for _, norm in nnx.iter_modules(block)
        if isinstance(norm, BatchNorm) and norm.num_batches_tracked is not None
    ]
    assert counts == [1] * len(counts)
    assert bool(counts) == bool(jax.tree.leaves(nnx.state(block, nnx.BatchStat)))
    assert bool(jnp.isfinite(training).all())


@pytest.mark.parametrize(
    "case",
    [*ONE_OF_EACH, ("MBConv", (6, 8), {"squeeze_excite": 4})],
    ids=block_id,
)
def test_the_initialiser_reaches_every_kernel(case):
    block = fresh(case, kernel_init=lambda key, shape, dtype: jnp.full(shape, 0.5, dtype))
    kernels = [m.kernel[...] for _, m in nnx.iter_modules(block) if isinstance(m, Conv)]
    assert kernels
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, 0.5)


def test_the_bias_has_an_initialiser_too():
    block = ConvNormAct(4, 8, 3, bias_init=zeros, rngs=nnx.Rngs(0))
    assert block.conv.bias is not None
    np.testing.assert_array_equal(block.conv.bias[...], 0)


EVERY_CLASS = [
    *ONE_OF_EACH,
    ("BasicBlock", (6, 8), {}),
    ("RexBottleneck", (6, 8), {}),
    ("ResNeXtBranches", (6, 8), {"cardinality": 2}),
]


def test_every_class_with_parameters_is_here():
    """`ResidualAdd` has those of the blocks that it is given."""
    classes = {name for name in blocks.__all__ if isinstance(getattr(blocks, name), type)}
    assert {name for name, _, _ in EVERY_CLASS} >= classes - {"ResidualAdd"}


@pytest.mark.parametrize("case", EVERY_CLASS, ids=block_id)
@pytest.mark.untyped
def test_integers_and_lists_are_refused(case):
    """Whatever the block begins with: a convolution, or a mean."""
    block = fresh(case)
    for dtype in ("bool", "uint8", "int32"):
        with pytest.raises(ValueError, match=rf"^`x` \(dtype {dtype}\) must be of a floating type"):
            output_of(block, channels=case[1][0], dtype=dtype)
    with pytest.raises(ValueError, match=r"^`x` \(of type list\) must be an array, such as"):
        block(np.zeros((2, 9, 7, case[1][0])).tolist())
