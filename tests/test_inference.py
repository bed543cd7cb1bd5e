"""`compile_inference` and folding: what is folded, what stays, whose memory it is, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.blocks import ConvNormAct, ResidualAdd
from flaxblocks.inference import fold_batch_norm
from flaxblocks.nn import BatchNorm, Conv
from tests.devices import outcomes
from tests.eight_devices import CASES as DEVICE_CASES

X = np.random.default_rng(0).standard_normal((3, 9, 8, 6)).astype(np.float32)


def trained(block: nnx.Module) -> nnx.Module:
    """A block whose norms have seen a batch, and whose scales and biases are not 1 and 0."""
    for path, variable in nnx.iter_graph(block):
        if isinstance(variable, nnx.Param) and path[-1] in ("scale", "bias"):
            variable[...] += 0.3 * jax.random.normal(jax.random.key(len(path)), variable.shape)
    block(jnp.asarray(X))  # type: ignore[operator]
    return block


class PreActivation(ConvNormAct):
    """The layers in another order: a fold would be wrong."""

    def __call__(self, x):
        assert isinstance(self.norm, BatchNorm)
        return self.conv(self.activation(self.norm(x)))


def shared_convolution() -> nnx.Module:
    first, second = (ConvNormAct(6, 6, 3, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    second.conv = first.conv
    return ResidualAdd(first, second)


CASES = {
    "plain": (lambda: ConvNormAct(6, 8, 3, rngs=nnx.Rngs(0)), True),
    "without bias": (lambda: ConvNormAct(6, 8, 3, bias=False, rngs=nnx.Rngs(0)), True),
    "group norm": (lambda: ConvNormAct(6, 32, 3, norm="group_norm", rngs=nnx.Rngs(0)), False),
    "no norm": (lambda: ConvNormAct(6, 8, 3, norm=None, rngs=nnx.Rngs(0)), False),
    "another order": (lambda: PreActivation(6, 6, 3, rngs=nnx.Rngs(0)), False),
    "a shared convolution": (shared_convolution, False),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_keeps_the_answers_and_takes_out_the_norms_it_may(case):
    build, folds = CASES[case]
    block = trained(build())
    folded = fold_batch_norm(block)
    norms = [m for _, m in nnx.iter_modules(folded) if isinstance(m, BatchNorm)]
    before = [m for _, m in nnx.iter_modules(block) if isinstance(m, BatchNorm)]
    assert (len(norms) < len(before)) == folds
    assert all(not norm.use_running_average for norm in before)  # the original goes on training
    block.eval()
    wanted = np.asarray(block(jnp.asarray(X)))  # type: ignore[operator]
    ours = np.asarray(fb.compile_inference(block)(jnp.asarray(X)))
    # a few roundings of 6e-8 each
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6 * abs(wanted).max())


@pytest.mark.parametrize("fold", [True, False])
def test_what_is_compiled_has_memory_of_its_own(fold):
    model = fb.create_model("mobilenet_v2", width_mult=0.1, num_classes=3)
    run = fb.compile_inference(model, fold=fold)
    x = jnp.ones((1, 32, 32, 3))
    before = np.asarray(run(x))
    _, params, _ = nnx.split(model, nnx.Param, ...)
    step = jax.jit(lambda p: jax.tree.map(lambda a: 0.9 * a, p), donate_argnums=0)
    jax.block_until_ready(step(params))  # the model's own arrays are gone
    np.testing.assert_array_equal(run(x), before)


def test_shapes_may_vary_and_a_batch_may_be_empty():
    model = fb.create_model("mobilenet_v2", width_mult=0.1, num_classes=3)
    run = fb.compile_inference(model)
    for shape in ((2, 40, 33, 3), (0, 32, 32, 3)):
        assert run(jnp.ones(shape)).shape == (shape[0], 3)


def test_a_convolution_keeps_its_kernel_through_a_fold_of_the_other():
    block = ResidualAdd(Conv(6, 6, 1, rngs=nnx.Rngs(0)), ConvNormAct(6, 6, 1, rngs=nnx.Rngs(1)))
    folded = fold_batch_norm(block)
    np.testing.assert_array_equal(folded.block.kernel[...], block.block.kernel[...])  # type: ignore[union-attr]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.untyped
def test_what_is_compiled_takes_no_integers(fold):
    run = fb.compile_inference(fb.create_model("mobilenet_v2", width_mult=0.1), fold=fold)
    pixels = np.full((2, 32, 32, 3), 255, np.uint8)
    with pytest.raises(ValueError, match=r"^`x` \(dtype uint8\) must be of a floating type"):
        run(jnp.asarray(pixels))
    assert run(pixels.astype(np.float32) / 255).shape == (2, 1000)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("fold", [True, False])
def test_what_is_finished_has_no_random_state(fold):
    model = fb.create_model(
        "resnet18", depths=(1, 1, 1, 1), num_classes=3, dropout=0.2, stochastic_depth=0.1
    )
    assert jax.tree.leaves(nnx.state(model, nnx.RngState))
    run = fb.compile_inference(model, fold=fold)
    assert "key<" not in str(jax.make_jaxpr(run)(jnp.ones((1, 32, 32, 3))))
    assert not jax.tree.leaves(nnx.state(fold_batch_norm(model), nnx.RngState))
    assert jax.tree.leaves(nnx.state(model, nnx.RngState))  # the original goes on training


@pytest.fixture(scope="module")
def found_on_devices() -> dict[str, str]:
    return outcomes("tests.eight_devices", devices=8)


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_on_several_devices(case, found_on_devices):
    assert not found_on_devices[case]
