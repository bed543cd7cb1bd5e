"""Helpers of the parity tests: the cases, and one training run in both frameworks."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from jax.typing import DTypeLike

import flaxblocks as fb
from flaxblocks.convert.fill import translated
from flaxblocks.convert.fit import fit
from flaxblocks.convert.keymap import key_map
from flaxblocks.models.registry import ModelEntry, model_entries
from flaxblocks.parity import relative_error
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.compiling import quick_to_compile
from flaxblocks.parity.oracle import calibrated_oracle

Gradients = Mapping[str, np.ndarray]


def read_facts(name: str) -> dict[str, Any]:
    """The published numbers in `tests/facts/{name}.json`."""
    return json.loads((Path(__file__).parent / "facts" / f"{name}.json").read_text())


def smallest_of_each_family() -> list[ModelEntry]:
    """The registered model with the fewest parameters of each class."""
    rows = sorted(model_entries(), key=lambda entry: -(entry.parameters or 0))
    return list({entry.build: entry for entry in rows}.values())


def by_default(*names: str) -> pytest.MarkDecorator:
    """Parametrizes `entry` by the smallest of each family: those of `names` by default, the others
    thorough.
    """
    return pytest.mark.parametrize(
        "entry",
        [
            pytest.param(
                entry,
                id=entry.name,
                marks=[] if entry.name in names else [pytest.mark.thorough],
            )
            for entry in smallest_of_each_family()
        ],
    )


def calibrated_pair(entry: ModelEntry, num_classes: int, passes: int = 3) -> tuple[Any, Any]:
    """The library's model, calibrated, and ours with its weights."""
    oracle = calibrated_oracle(entry, num_classes, passes=passes)
    model = fb.create_model(entry.name, weights=oracle.state_dict(), num_classes=num_classes)
    return model, oracle


def compiled_errors(entry: ModelEntry, size: tuple[int, int]) -> tuple[float, float]:
    """Relative errors in float32, of `compile_inference` and of PyTorch, against PyTorch in
    float64.
    """
    model, oracle = calibrated_pair(entry, 1000)  # of a few numbers the worst is a matter of luck
    x = images(0, size)
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = oracle.float()(channels_first.float()).numpy()
        truth = oracle.double()(channels_first).numpy()
    ours = np.asarray(fb.compile_inference(model)(jnp.asarray(x, jnp.float32)))
    return relative_error(ours, truth), relative_error(theirs, truth)


def gradient_errors(entry: ModelEntry, batches: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """For each batch of images the median over the parameters of their gradient's relative error
    in float32, in inference mode, of ours and of PyTorch's, against PyTorch's in float64.
    """
    model, oracle = calibrated_pair(entry, 1000)
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params: nnx.State, x: jax.Array):
        y = nnx.merge(graphdef, params, rest, copy=True)(x)
        return (y * jnp.asarray(_target(y.shape), y.dtype)).mean()

    def ours(x: np.ndarray) -> Gradients:
        holder = nnx.clone(model)  # of gradients, which are then named as parameters are
        nnx.update(holder, gradient(params, jnp.asarray(x, jnp.float32)))
        return fb.to_torch(holder, entry.layout)

    def theirs(x: np.ndarray, dtype: torch.dtype) -> Gradients:
        channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
        oracle.to(dtype).zero_grad()
        y = oracle(channels_first.to(dtype))
        (y * torch.from_numpy(_target(y.shape)).to(dtype)).mean().backward()
        return {name: p.grad.numpy() for name, p in oracle.named_parameters() if p.grad is not None}

    def error(found: Gradients, truth: Gradients) -> float:
        return float(np.median([relative_error(found[name], truth[name]) for name in truth]))

    found = [(ours(x), theirs(x, torch.float32)) for x in batches]
    truths = [theirs(x, torch.float64) for x in batches]
    return [
        (error(ours, truth), error(theirs, truth))
        for (ours, theirs), truth in zip(found, truths, strict=True)
    ]


def images(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Two images of standard normal numbers, float64, `(2, *size, 3)`."""
    return np.random.default_rng(seed).standard_normal((2, *size, 3))


def rms(a: np.ndarray) -> float:
    """The root of the mean square: an error of which no number's luck decides."""
    return float(np.sqrt(np.mean(np.square(a))))


def equal_arrays(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """The same keys in the same order, and under each the same dtype and the same bits."""
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a
    )


def output_of(
    model: nnx.Module,
    size: tuple[int, int] = (64, 96),
    channels: int = 3,
    dtype: DTypeLike = jnp.float32,
) -> Any:
    """The shape of the output for two images, or the shapes, without a number computed."""
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((2, *size, channels), dtype)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state, copy=True)(x), state, image)
    return jax.tree.map(lambda leaf: leaf.shape, y)


# Every block of `torch_ref`, with every option it has. (name, widths, options)
BLOCKS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("ConvNormAct", (6, 8, 3), {}),
    ("ConvNormAct", (6, 8, 2), {}),
    ("ConvNormAct", (6, 8, 5), {"stride": 2, "groups": 2, "bias": False, "activation": "silu"}),
    ("ConvNormAct", (6, 12, 3), {"groups": 6, "dilation": 2, "activation": "hard_swish"}),
    ("ConvNormAct", (6, 8, 3), {"padding": 0, "norm": None, "activation": "gelu"}),
    ("ConvNormAct", (6, 32, 3), {"norm": "group_norm", "activation": "mish"}),
    ("ConvNormAct", (6, 8, 1), {"activation": None}),
    ("Conv1X1BnReLU", (6, 8), {"stride": 2}),
    ("Conv3X3BnReLU", (6, 8), {"groups": 2, "activation": "leaky_relu"}),
    ("BottleNeck", (8, 16), {}),
    ("BottleNeck", (16, 16), {"reduction": 2, "bias": False, "shortcut_activation": None}),
    ("BottleNeck", (16, 16), {"stride": 2, "activation": "elu", "final_activation": "tanh"}),
    ("LinearBottleNeck", (8, 16), {}),
    ("LinearBottleNeck", (16, 16), {"stride": 2, "shortcut_activation": None}),
    ("InvertedResidual", (6, 8), {}),
    ("InvertedResidual", (6, 6), {"expansion": 6, "squeeze_excite": 4, "final_activation": None}),
    ("InvertedResidual", (6, 8), {"depthwise": True, "stride": 2, "shortcut_activation": None}),
    ("InvertedResidual", (6, 6), {"expansion": 1, "always_expand": False, "depthwise": True}),
    ("MobileNetLikeBlock", (6, 8), {"bias": False}),
    ("MobileNetLikeBlock", (6, 6), {"kernel_size": 5, "squeeze_excite": 4}),
    ("MBConv", (6, 8), {}),
    ("MBConv", (6, 6), {}),
    ("MBConv", (6, 8), {"depthwise": False}),
    ("MBConv", (6, 6), {"depthwise": False, "expansion": 2}),
    ("MBConv", (6, 6), {"expansion": 6, "bias": False, "final_activation": None}),
    ("MBConv", (6, 8), {"kernel_size": 5, "stride": 2, "squeeze_excite": 4, "activation": "silu"}),
    ("FusedMBConv", (6, 8), {}),
    ("FusedMBConv", (6, 6), {"squeeze_excite": 4, "activation": "silu", "final_activation": None}),
    ("FusedMBConv", (6, 6), {"stride": 2, "bias": False}),
    ("DepthWiseSeparableConv", (6, 8), {}),
    (
        "DepthWiseSeparableConv",
        (6, 8),
        {"kernel_size": 5, "stride": 2, "padding": 2, "bias": False},
    ),
    ("SqueezeExcite", (8,), {}),
    ("SqueezeExcite", (8,), {"squeezed_features": 3, "norm": "batch_norm", "gate": "hard_sigmoid"}),
]


def block_id(case: tuple[str, tuple[int, ...], dict[str, Any]]) -> str:
    """`MBConv(6,8,stride=2)`."""
    name, widths, options = case
    return f"{name}({','.join(map(str, [*widths, *(f'{k}={v}' for k, v in options.items())]))})"


def block_pair(case: tuple[str, tuple[int, ...], dict[str, Any]], size: tuple[int, int] = (9, 7)):
    """A calibrated PyTorch twin and the Flax block with its weights, both in evaluation mode."""
    import torch_ref.blocks

    name, widths, options = case
    torch.manual_seed(0)
    twin = getattr(torch_ref.blocks, name)(*widths, **options)
    calibrate(twin, (4, widths[0], *size))
    block = getattr(fb.blocks, name)(*widths, **options, rngs=nnx.Rngs(0))
    fb.load_torch(block, twin.state_dict(), layout="article")
    block.eval()
    return block, twin


# Built with a pace that scales the learning rates of SGD and RMSprop.
OPTIMISERS: dict[
    str, tuple[Callable[..., Any], Callable[[float], optax.GradientTransformation]]
] = {
    "sgd": (
        lambda p, pace: torch.optim.SGD(p, lr=0.05 * pace, momentum=0.9, weight_decay=1e-2),
        lambda pace: optax.chain(
            optax.add_decayed_weights(1e-2), optax.sgd(0.05 * pace, momentum=0.9)
        ),
    ),
    "rmsprop": (
        lambda p, pace: torch.optim.RMSprop(p, lr=1e-3 * pace, alpha=0.9, eps=1e-3, momentum=0.9),
        lambda pace: optax.rmsprop(
            1e-3 * pace, decay=0.9, eps=1e-3, eps_in_sqrt=False, momentum=0.9
        ),
    ),
    "adamw": (
        lambda p, pace: torch.optim.AdamW(
            p, lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1
        ),
        lambda _: optax.adamw(1e-3, b1=0.9, b2=0.99, eps=1e-6, weight_decay=0.1),
    ),
}


def train_both(
    model: nnx.Module,
    oracle: torch.nn.Module,
    x: np.ndarray,
    layout: str,
    steps: int = 10,
    pace: float = 1.0,
) -> dict[str, float]:
    """Largest relative error of a parameter or buffer after `steps` float64 steps, by optimiser.

    The loss is the mean square of the output less a fixed random target. Both start from the same
    weights for each optimiser. Dropout is off in both.
    """
    oracle = oracle.double()
    start = {key: value.clone() for key, value in oracle.state_dict().items()}
    errors = {}
    with jax.enable_x64(True):
        wide = nnx.clone(model)
        wide.train()
        wide.set_attributes(fb.nn.Dropout, deterministic=True, raise_if_not_found=False)
        graphdef, params, rest = nnx.split(wide, nnx.Param, ...)
        params64, rest64 = (_float64(nnx.to_pure_dict(part)) for part in (params, rest))

        def loss_of(params: Mapping, rest: Mapping):
            fresh = nnx.merge(graphdef, params, rest, copy=True)
            y = fresh(jnp.asarray(x))
            loss = ((y - _target(y.shape)) ** 2).mean()
            return loss, nnx.to_pure_dict(nnx.state(fresh, nnx.Not(nnx.Param)))

        gradient = jax.jit(
            jax.grad(loss_of, has_aux=True), compiler_options=quick_to_compile(wide, grad=True)
        )
        for name, (torch_optimiser, flax_optimiser) in OPTIMISERS.items():
            ours = _train_flax(gradient, params64, rest64, flax_optimiser(pace), steps)
            oracle.load_state_dict(start)
            theirs = _train_torch(oracle, x, partial(torch_optimiser, pace=pace), steps)
            for part in ours:
                nnx.update(wide, part)
            state = fb.to_torch(wide, layout)
            errors[name] = max(relative_error(state[key], value) for key, value in theirs.items())
    return errors


def _target(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def _float64(tree: Any) -> Any:
    def widened(a: jax.Array) -> jax.Array:  # by NumPy: JAX would compile once for each shape
        is_float = jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.asarray(np.asarray(a, np.float64)) if is_float else a

    return jax.tree.map(widened, tree)


def _train_flax(gradient, params, rest, optimiser: optax.GradientTransformation, steps: int):
    state = optimiser.init(params)

    @partial(jax.jit, compiler_options=quick_to_compile(None, grad=False))
    def apply(gradients, state, params):
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        gradients, rest = gradient(params, rest)
        params, state = apply(gradients, state, params)
    return params, rest


def _train_torch(oracle, x, optimiser, steps: int) -> dict[str, np.ndarray]:
    oracle.train()
    for module in oracle.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    optimise = optimiser(oracle.parameters())
    for _ in range(steps):
        optimise.zero_grad()
        y = oracle(channels_first)
        y = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
        ((y - torch.from_numpy(_target(y.shape))) ** 2).mean().backward()
        optimise.step()
    return {key: value.numpy() for key, value in oracle.state_dict().items()}


def memory_of(function: Callable[..., object], *arguments: jax.Array) -> int:
    """Bytes that the compiled function needs beside its arguments and its results."""
    used = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert used is not None
    return used.temp_size_in_bytes


def translate(module, arrays, to, layout="auto"):
    """A whole state dict in another layout, and the layout that it was in."""
    target = key_map(module, to)
    found = fit(module, arrays, layout)
    return translated(module, found.keys, target, arrays), found.keys.layout
