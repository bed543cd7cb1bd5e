"""`Conv` and `conv2d` by themselves: errors, types, formulations, and what JAX can do with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from flaxblocks.blocks import SqueezeExcite
from flaxblocks.nn import Conv, conv2d
from flaxblocks.nn.conv import _cpu_formulation
from flaxblocks.nn.forms.windows import Geometry, conv_output_size, plain_conv


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 3), r"`in_features` \(=0\) must be an integer of at least 1"),
        ((4, -1, 3), r"`out_features` \(=-1\) must be an integer of at least 1"),
        ((4, 8, 0), r"`kernel_size` \(=0\) must be at least 1"),
        ((4, 8, (3, 3, 3)), r"`kernel_size` \(=\(3, 3, 3\)\) must be an int or a pair of ints"),
        ((4, 8, 3, {"stride": 0}), r"`stride` \(=0\) must be at least 1"),
        ((4, 8, 3, {"padding": (0, -1)}), r"`padding` \(=\(0, -1\)\) must be at least 0"),
        ((4, 8, 3, {"dilation": (0, 1)}), r"`dilation` \(=\(0, 1\)\) must be at least 1"),
        ((4, 8, 3, {"groups": 0}), r"`groups` \(=0\) must be an integer of at least 1"),
        ((4, 8, 3, {"groups": 3}), r"`in_features` \(=4\) must be divisible by `groups` \(=3\)"),
        ((4, 6, 3, {"groups": 4}), r"`out_features` \(=6\) must be divisible by `groups` \(=4\)"),
    ],
)
@pytest.mark.untyped
def test_constructor_refuses(arguments, message):
    positional = [a for a in arguments if not isinstance(a, dict)]
    options = arguments[-1] if isinstance(arguments[-1], dict) else {}
    with pytest.raises(ValueError, match=message):
        Conv(*positional, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 5, 3), r"`x` \(shape \(1, 5, 5, 3\)\) must be \(N, H, W, 4\)"),
        ((5, 5, 4), r"`x` \(shape \(5, 5, 4\)\) must be \(N, H, W, 4\)"),
        ((1, 4, 5, 5), "which looks like PyTorch's NCHW"),
        ((1, 2, 9, 4), r"with padding \(0, 0\) is smaller than the kernel \(3, 3\) at dilation"),
        ((1, 9, 2, 4), r"smaller than the kernel \(3, 3\) at dilation \(1, 1\)"),
    ],
)
@pytest.mark.untyped
def test_call_refuses_another_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        Conv(4, 8, 3, rngs=nnx.Rngs(0))(jnp.zeros(shape))


def test_dilation_counts_towards_the_kernel_that_must_fit():
    conv = Conv(4, 8, 3, dilation=2, padding=1, rngs=nnx.Rngs(0))
    assert conv(jnp.zeros((1, 3, 3, 4))).shape == (1, 1, 1, 8)
    with pytest.raises(ValueError, match=r"smaller than the kernel \(3, 3\) at dilation \(2, 2\)"):
        conv(jnp.zeros((1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("geometry", "pixels"),
    [
        ((224, 3, 2, 1, 1), 112),
        ((7, 3, 2, 1, 1), 4),
        ((9, 3, 1, 0, 2), 5),
        ((6, 2, 1, 1, 1), 7),
        ((5, 1, 3, 0, 1), 2),
    ],
)
def test_output_size(geometry, pixels):
    size, kernel, stride, padding, dilation = geometry
    assert conv_output_size(size, kernel, stride, (padding, padding), dilation) == pixels
    conv = Conv(
        1, 1, (kernel, 1), stride=stride, padding=(padding, 0), dilation=dilation, rngs=nnx.Rngs(0)
    )
    out = jax.eval_shape(lambda: conv(jnp.zeros((1, size, 1, 1))))
    assert out.shape == (1, pixels, conv_output_size(1, 1, stride, (0, 0), 1), 1)


def test_variables():
    conv = Conv(6, 12, (3, 5), groups=2, rngs=nnx.Rngs(0))
    assert conv.kernel.shape == (3, 5, 3, 12)
    assert conv.bias is not None
    assert conv.bias.shape == (12,)
    assert Conv(6, 12, 3, bias=False, rngs=nnx.Rngs(0)).bias is None


def test_both_parameters_are_drawn_within_one_over_root_fan_in():
    conv = Conv(8, 4096, 3, groups=4, rngs=nnx.Rngs(0))
    assert conv.bias is not None
    for values in (conv.kernel[...], conv.bias[...]):
        bound = (2 * 9) ** -0.5  # two input channels a group, nine taps
        largest = float(jnp.abs(values).max())
        assert 0.99 * bound < largest <= bound


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_dtype_is_of_the_computation_and_not_of_the_parameters(groups):
    conv = Conv(8, 8, 3, groups=groups, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert conv.kernel[...].dtype == jnp.float32
    assert conv(jnp.ones((1, 4, 4, 8))).dtype == jnp.bfloat16
    wide = Conv(8, 8, 3, groups=groups, rngs=nnx.Rngs(0))
    assert wide(jnp.ones((1, 4, 4, 8), jnp.bfloat16)).dtype == jnp.float32
    narrow = Conv(8, 8, 3, groups=groups, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert narrow.kernel[...].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("kernel", "in_features", "padding", "groups", "name"),
    [
        ((1, 1, 8, 4), 8, ((0, 0), (0, 0)), 1, "_as_matrix_product"),
        ((1, 1, 8, 4), 8, ((1, 1), (0, 0)), 1, None),
        ((3, 3, 8, 4), 8, ((1, 1), (1, 1)), 1, None),
        ((3, 3, 1, 16), 8, ((1, 1), (1, 1)), 8, "_as_shifted_products"),
        ((3, 3, 2, 16), 8, ((1, 1), (1, 1)), 4, "_as_grouped_products"),
        ((3, 3, 8, 256), 256, ((1, 1), (1, 1)), 32, "_as_grouped_products"),
        ((3, 3, 16, 512), 512, ((1, 1), (1, 1)), 32, None),
        ((5, 5, 8, 64), 64, ((1, 1), (1, 1)), 8, "separate_groups"),
        ((3, 3, 48, 192), 192, ((1, 1), (1, 1)), 4, "separate_groups"),
        ((3, 3, 1, 4), 1, ((1, 1), (1, 1)), 1, None),
    ],
)
def test_choice_of_formulation(kernel, in_features, padding, groups, name):
    geometry = Geometry((1, 1), padding, (1, 1))
    chosen = _cpu_formulation(kernel, in_features, geometry, groups)
    assert getattr(chosen, "__name__", None) == name


@pytest.mark.parametrize(
    ("kernel", "groups", "stride", "padding", "dilation"),
    [
        ((1, 1, 4, 6), 1, (1, 1), ((0, 0), (0, 0)), (1, 1)),
        ((1, 1, 4, 6), 1, (2, 3), ((0, 0), (0, 0)), (1, 1)),
        ((3, 3, 1, 4), 4, (1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((3, 2, 1, 8), 4, (2, 1), ((3, 3), (0, 0)), (2, 1)),
        ((3, 5, 1, 4), 4, (2, 2), ((0, 1), (1, 2)), (1, 1)),
        ((3, 2, 2, 6), 2, (2, 1), ((3, 3), (0, 1)), (2, 1)),
        ((7, 6, 2, 6), 2, (2, 1), ((3, 3), (3, 3)), (1, 1)),
    ],
)
def test_cpu_formulation_is_the_same_map_as_the_plain_one(
    kernel, groups, stride, padding, dilation
):
    rng = np.random.default_rng(0)
    geometry = Geometry(stride, padding, dilation)
    form = _cpu_formulation(kernel, 4, geometry, groups)
    assert form is not None
    with jax.enable_x64(True):
        x, w = (jnp.asarray(rng.standard_normal(s)) for s in ((2, 9, 8, 4), kernel))
        y = jax.eval_shape(lambda: plain_conv(x, w, geometry, groups))
        cotangent = jnp.asarray(rng.standard_normal(y.shape))

        def value_and_gradients(form):
            y, pull = jax.vjp(lambda x, w: form(x, w, geometry, groups), x, w)
            return y, *pull(cotangent)

        pairs = zip(
            *(jax.jit(lambda f=f: value_and_gradients(f))() for f in (form, plain_conv)),
            strict=True,
        )
        for a, b in pairs:  # a few dozen terms of order 1 in float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_lowers_for_every_platform_with_a_symbolic_batch(groups):
    conv = Conv(6, 12, 3, stride=2, padding=1, groups=groups, rngs=nnx.Rngs(0))
    pointwise = Conv(12, 5, 1, rngs=nnx.Rngs(1))
    batch = export.symbolic_shape("n")[0]
    exported = export.export(
        jax.jit(lambda x: pointwise(conv(x))), platforms=["cpu", "cuda", "tpu"]
    )(jax.ShapeDtypeStruct((batch, 9, 8, 6), jnp.float32))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 9, 8, 6)), jnp.float32)
    np.testing.assert_allclose(exported.call(x), pointwise(conv(x)), atol=1e-6)  # float32 rounding


def test_on_a_gpu_a_gate_and_its_gradient_are_products():
    """cuDNN would get the mean's 1/HW with a convolution, and round it to float32."""
    graphdef, state = nnx.split(SqueezeExcite(8, rngs=nnx.Rngs(0)))

    def loss(state, x):
        return jnp.square(nnx.merge(graphdef, state, copy=True)(x)).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    exported = export.export(gradient, platforms=["cuda"])(state, jnp.zeros((2, 5, 4, 8)))
    assert "stablehlo.dot_general" in exported.mlir_module()
    assert "stablehlo.convolution" not in exported.mlir_module()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "sides"),
    [
        (224, 3, 2, 1, (0, 1)),  # an even image at stride 2: one zero, after the image
        (225, 3, 2, 1, (1, 1)),
        (7, 5, 2, 1, (2, 2)),
        (8, 5, 2, 1, (1, 2)),
        (9, 3, 1, 2, (2, 2)),
        (9, 1, 2, 1, (0, 0)),
        (6, 2, 1, 1, (0, 1)),
    ],
)
def test_same_is_tensorflows_padding(size, kernel, stride, dilation, sides):
    x, w = jnp.ones((1, size, 1, 1)), jnp.arange(1.0, kernel + 1).reshape(kernel, 1, 1, 1)
    y = conv2d(x, w, stride=stride, dilation=(dilation, 1), padding="SAME")
    padded = jnp.pad(x, [(0, 0), sides, (0, 0), (0, 0)])
    wanted = conv2d(padded, w, stride=stride, dilation=(dilation, 1))
    assert y.shape[1] == -(-size // stride)
    np.testing.assert_array_equal(y, wanted)


def test_numbers_stand_for_pairs_and_bad_ones_are_named():
    x, kernel = jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 4))
    y = conv2d(x, kernel, stride=2, padding=1, dilation=2)
    wanted = conv2d(x, kernel, stride=(2, 2), padding=(1, 1), dilation=(2, 2))
    np.testing.assert_array_equal(y, wanted)
    with pytest.raises(ValueError, match=r"`stride` \(=0\) must be at least 1"):
        conv2d(x, kernel, stride=0)


def test_a_depthwise_sum_in_bfloat16_is_taken_in_float32():
    x, kernel = jnp.ones((1, 1, 300, 2), jnp.bfloat16), jnp.ones((1, 300, 1, 2), jnp.bfloat16)
    y = conv2d(x, kernel, groups=2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), 300)  # in bfloat16 it stops at 256


def test_input_is_not_padded_asymmetrically_at_stride_two():
    # One pixel at the corner: with padding 1 on both sides window 0 has it under its middle tap.
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    y = conv2d(x, kernel, stride=(2, 2), padding=(1, 1))
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 0], [0, 0]])
