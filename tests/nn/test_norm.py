"""Batch norm's state and modes, group norm's checks, and norms by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxblocks.blocks import ConvNormAct
from flaxblocks.create.build import abstract_model
from flaxblocks.nn import NORMS, BatchNorm, GroupNorm, make_norm
from flaxblocks.nn.batch_statistics import normalise_by_batch
from tests.support import memory_of


def images(shape=(4, 5, 3, 6), seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def statistics(norm):
    return {k: np.asarray(v) for k, v in nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat)).items()}


def test_starts_as_pytorch_does():
    norm = BatchNorm(6)
    for variable, value in ((norm.scale, 1), (norm.bias, 0), (norm.mean, 0), (norm.var, 1)):
        assert variable is not None
        np.testing.assert_array_equal(variable[...], np.full(6, value, np.float32))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked[...].dtype == jnp.int32
    assert norm.num_batches_tracked[...] == 0


@pytest.mark.parametrize("count", [0, -3, True])
def test_refuses_a_number_of_channels(count):
    for norm in (BatchNorm, GroupNorm):
        with pytest.raises(ValueError, match=rf"`num_features` \(={count}\) must be an integer"):
            norm(count, rngs=nnx.Rngs(0))


def test_refuses_groups_that_do_not_divide():
    with pytest.raises(
        ValueError, match=r"`num_features` \(=30\) must be divisible by `num_groups` \(=4\)"
    ):
        GroupNorm(30, num_groups=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"`num_groups` \(=0\) must be an integer of at least 1"):
        GroupNorm(30, num_groups=0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("norm", [BatchNorm(6), GroupNorm(6, num_groups=2, rngs=nnx.Rngs(0))])
@pytest.mark.parametrize("shape", [(2, 5, 5, 4), (2, 6, 5, 5), ()])
@pytest.mark.untyped
def test_call_refuses_other_channels(norm, shape):
    with pytest.raises(ValueError, match=r"`x` \(shape .*\) must be \(.*6\)"):
        norm(jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (1, 6)])
def test_one_value_per_channel_is_refused_in_training_only(shape):
    norm = BatchNorm(6)
    with pytest.raises(ValueError, match=r"has 1 value per channel; batch norm in training mode"):
        norm(jnp.zeros(shape))
    assert statistics(norm)["num_batches_tracked"] == 0
    norm.eval()
    assert norm(jnp.zeros(shape)).shape == shape


def test_large_mean_does_not_cancel():
    rng = np.random.default_rng(0)
    x = (1000 + 0.1 * rng.standard_normal((8, 16, 16, 2))).astype(np.float32)
    norm = BatchNorm(2)
    y = np.asarray(norm(jnp.asarray(x)), np.float64)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    # The float32 mean is off by a few units of 6e-5, each 6e-4 of a deviation.
    np.testing.assert_allclose(y, exact, atol=1e-2)
    count = 8 * 16 * 16
    np.testing.assert_allclose(
        statistics(norm)["var"], 0.9 + 0.1 * wide.var((0, 1, 2)) * count / (count - 1), rtol=1e-5
    )


def test_statistics_stay_float32_under_bfloat16():
    norm = BatchNorm(6, dtype=jnp.bfloat16)
    x = images().astype(jnp.bfloat16)
    assert norm(x).dtype == jnp.bfloat16
    assert statistics(norm)["mean"].dtype == np.float32
    reference = BatchNorm(6)
    reference(x.astype(jnp.float32))
    for name in ("mean", "var"):  # the same arithmetic: nothing was rounded to bfloat16 on the way
        np.testing.assert_array_equal(statistics(norm)[name], statistics(reference)[name])
    norm.eval()
    assert norm(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("largeness", [-3.0, 0.0, 6.0])
def test_a_channels_gain_is_rounded_as_often_up_as_down(largeness):
    channels = 100_000
    var = np.exp(largeness + np.random.default_rng(0).standard_normal(channels))
    norm = BatchNorm(channels)
    norm.eval()
    assert norm.var is not None
    norm.var[...] = jnp.asarray(var, jnp.float32)
    y = nnx.jit(lambda norm, x: norm(x))(norm, jnp.ones((2, channels)))
    gain = np.asarray(y)[0]  # the mean and the bias are 0
    error = gain * np.sqrt(np.asarray(norm.var[...], np.float64) + norm.eps) - 1
    # A root of what has two roundings of 2^-24. XLA's own on CPU misses by up to 2.6 of them,
    assert abs(error).max() <= 2 * 2.0**-24
    # and by 0.27 on average, which the norms of a deep network add up.
    assert abs(error.mean()) <= 0.2 * 2.0**-24


def test_running_statistics_are_subtracted_unrounded_under_bfloat16():
    norm = BatchNorm(6, dtype=jnp.bfloat16)
    norm.eval()
    assert norm.mean is not None
    norm.mean[...] = jnp.full(6, 1001.5)  # bfloat16 has 1000 and 1004
    y = np.asarray(norm(images() + 1001.5), np.float32)
    np.testing.assert_allclose(y, images(), atol=1e-2)  # values to 4, 8 bits of them


def test_narrow_statistics_stay_narrow():
    norm = BatchNorm(6, param_dtype=jnp.bfloat16)
    norm(images())
    found = statistics(norm)
    assert found["mean"].dtype == found["var"].dtype == jnp.bfloat16
    assert found["mean"].any()


def test_dtype_is_the_widest_unless_given():
    x = images().astype(jnp.bfloat16)
    assert BatchNorm(6)(x).dtype == jnp.float32
    assert BatchNorm(6, affine=False)(x).dtype == jnp.bfloat16
    assert BatchNorm(6, dtype=np.dtype("float16"))(x).dtype == jnp.float16


def test_eval_changes_nothing_and_uses_the_running_statistics():
    norm = BatchNorm(6)
    norm(images())
    before = statistics(norm)
    norm.eval()
    y = norm(images(seed=1))
    for name, value in statistics(norm).items():
        np.testing.assert_array_equal(value, before[name])
    expected = (images(seed=1) - before["mean"]) / np.sqrt(before["var"] + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)  # float32 rounding
    norm.train()
    norm(images(seed=1))
    assert statistics(norm)["num_batches_tracked"] == 2


def test_view_gives_another_mode_over_the_same_variables():
    norm = BatchNorm(6)
    frozen = nnx.view(norm, use_running_average=True)
    assert not norm.use_running_average
    np.testing.assert_allclose(frozen(images()), images(), atol=1e-4)  # mean 0, variance 1, eps
    assert statistics(norm)["num_batches_tracked"] == 0
    norm(images())
    assert statistics(frozen)["num_batches_tracked"] == 1
    training = nnx.view(frozen, use_running_average=False)
    training(images())
    assert statistics(norm)["num_batches_tracked"] == 2


def test_untracked_norm_has_no_state_and_uses_the_batch_in_eval():
    norm = BatchNorm(6, track_running_stats=False)
    assert statistics(norm) == {}
    y = norm(images())
    norm.eval()
    np.testing.assert_array_equal(norm(images()), y)
    assert BatchNorm(6, affine=False).scale is None
    assert BatchNorm(6, affine=False).bias is None


@pytest.mark.parametrize("momentum", [0.1, None])
def test_update_happens_under_jit(momentum):
    eager, through_state, lifted = (BatchNorm(6, momentum=momentum) for _ in range(3))
    graphdef, state = nnx.split(through_state)

    @jax.jit
    def step(state, x):
        norm = nnx.merge(graphdef, state)
        return norm(x), nnx.state(norm)

    @nnx.jit
    def lifted_step(norm, x):
        return norm(x)

    for seed in range(3):
        y = eager(images(seed=seed))
        through, state = step(state, images(seed=seed))
        for other in (through, lifted_step(lifted, images(seed=seed))):
            np.testing.assert_allclose(other, y, atol=1e-6)  # float32 rounding
    nnx.update(through_state, state)
    for norm in (through_state, lifted):
        found = statistics(norm)
        assert found["num_batches_tracked"] == 3
        for name, value in statistics(eager).items():
            np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_cumulative_average_weighs_all_batches_alike():
    norm = BatchNorm(6, momentum=None)
    batches = [images(seed=seed) for seed in range(4)]
    for batch in batches:
        norm(batch)
    means = np.mean([b.mean((0, 1, 2)) for b in batches], 0)
    variances = np.mean([np.var(b, (0, 1, 2), ddof=1) for b in batches], 0)
    np.testing.assert_allclose(statistics(norm)["mean"], means, atol=1e-6)  # float32 rounding
    np.testing.assert_allclose(statistics(norm)["var"], variances, atol=1e-6)


def test_second_derivative_is_finite_also_for_a_constant_channel():
    x = images((3, 2, 2, 2)).at[..., 1].set(7.0)
    graphdef, state = nnx.split(BatchNorm(2))

    def loss(x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, state, copy=True)(x)))

    first = jax.jit(jax.grad(loss))
    second = jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2)))
    for gradient in (first(x), second(x)):
        assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(second(x)[..., 0]).max()) > 0


def test_running_statistics_carry_no_gradient():
    def loss(x):
        norm = BatchNorm(6)
        norm(x)
        assert norm.var is not None
        assert norm.mean is not None
        return norm.var[...].sum() + norm.mean[...].sum()

    np.testing.assert_array_equal(jax.grad(loss)(images()), 0)


def test_group_norm_in_bfloat16_keeps_float32_statistics():
    norm = GroupNorm(6, num_groups=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = (images() + 8).astype(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = GroupNorm(6, num_groups=2, rngs=nnx.Rngs(0))(x.astype(jnp.float32))
    # Values to 4; the mean of 8 rounded to bfloat16 alone would be off by up to 2e-2.
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=1.6e-2)


@pytest.mark.parametrize("name", NORMS)
def test_make_norm_by_name(name):
    norm = make_norm(name, 64, dtype=jnp.bfloat16, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert isinstance(norm, NORMS[name])  # pyright: ignore[reportArgumentType]
    assert getattr(norm, "dtype", None) == jnp.bfloat16


def test_make_norm_by_callable_and_none():
    types = {"dtype": None, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    norm = make_norm(partial(BatchNorm, eps=1e-3), 8, **types)
    assert isinstance(norm, BatchNorm)
    assert norm.eps == 1e-3
    assert make_norm(None, 8, **types) is None
    with pytest.raises(
        ValueError, match=r"`norm` \(='layer'\) must be one of \['batch_norm', 'group_norm'\]"
    ):
        make_norm("layer", 8, **types)


FLAXS = {
    "the class": nnx.BatchNorm,
    "a partial": partial(nnx.BatchNorm, momentum=0.9),
    "a partial of a partial": partial(partial(nnx.BatchNorm, momentum=0.9), epsilon=1e-3),
    "a class of it": type("Renamed", (nnx.BatchNorm,), {}),
    "a function": lambda *features, **types: nnx.BatchNorm(*features, **types),
}


@pytest.mark.parametrize("norm", FLAXS.values(), ids=FLAXS)
def test_flaxs_batch_norm_is_refused_where_a_norm_is_built(norm):
    """Its statistics are none that PyTorch has."""
    message = (
        r"must not build Flax's `BatchNorm`, .*: use \"batch_norm\" or `flaxblocks.nn.BatchNorm`"
    )
    with pytest.raises(ValueError, match=rf"`norm` \(=.*\) {message}"):
        ConvNormAct(3, 4, 1, norm=norm, rngs=nnx.Rngs(0))
    for name in ("resnet18", "mobilenet_v3_small"):  # of which one sets the epsilon of its norm
        with pytest.raises(ValueError, match=rf"`norm(_layer)?` \(=.*\) {message}"):
            abstract_model(name, norm_layer=norm)


def test_the_argument_is_named_that_asks_for_flaxs_batch_norm():
    with pytest.raises(ValueError, match=r"`norm_layer` \(=<class '.*BatchNorm'>\) must not build"):
        abstract_model("mobilenet_v2", norm_layer=nnx.BatchNorm)


def _plainly(x, scale):
    """`normalise_by_batch`, to be differentiated as it stands."""
    mean = x.mean((0, 1, 2))
    var = ((x - mean) ** 2).mean((0, 1, 2))
    return (x - mean) * (scale / jnp.sqrt(var + 0.1)), mean, var


@pytest.mark.parametrize("differentiated", [(0, 1), (0,), (1,)])
def test_the_written_derivative_is_the_formulas(differentiated):
    """Forward, backward and second derivatives, also through the statistics themselves."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        arguments = jnp.asarray(rng.normal(3, 2, (2, 3, 4, 5))), jnp.asarray(rng.normal(1, 2, 5))

        def outputs(normalise):
            def loss(*arguments):
                y, mean, var = normalise(*arguments)
                return jnp.sin(y).sum() + jnp.cos(mean * var).sum()

            tangents = tuple(a * 0.3 + 1 for a in arguments)
            partial_tangents = tuple(
                t if i in differentiated else jnp.zeros_like(t) for i, t in enumerate(tangents)
            )
            slope = jax.grad(loss, differentiated)
            second = jax.grad(lambda *a: sum(jnp.sum(g**2) for g in slope(*a)), differentiated)
            return (
                jax.jvp(normalise, arguments, partial_tangents),
                slope(*arguments),
                second(*arguments),
            )

        ours = outputs(lambda x, scale: normalise_by_batch(x, scale, 0.1))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            ours,
            outputs(_plainly),
        )


def test_the_gradient_keeps_one_image_from_the_forward_pass():
    """The formula's own derivative would keep another."""
    x, scale = jnp.ones((8, 32, 32, 16)), jnp.ones(16)

    def gradient(x, scale, cotangent):
        y, back = jax.vjp(lambda x: normalise_by_batch(x, scale, 1e-5)[0], x)
        return y, back(cotangent)

    assert memory_of(gradient, x, scale, x) < x.nbytes / 2
