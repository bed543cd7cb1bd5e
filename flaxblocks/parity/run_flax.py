"""The Flax side of a comparison: a module run in one precision, in one program or step by step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxblocks.convert.keymap import KeyMap
from flaxblocks.inspect.record import drop_nothing, record_by_step, record_outputs
from flaxblocks.parity.compiling import quick_to_compile
from flaxblocks.parity.run import Mode, Precision, Run, cotangent, output_pairs, tensors

__all__ = ["run_flax"]

Recorder = Callable[[nnx.Module], AbstractContextManager[dict[str, Any]]]


def run_flax(
    model: nnx.Module, keys: KeyMap, x: np.ndarray, precision: Precision, mode: Mode
) -> Run:
    """Run a copy of `model` on `x`.

    In bfloat16 the parameters and buffers are float32, as in `create_model(dtype=jnp.bfloat16)`.
    With `mode.whole`, the program is the one that users run, compiled with XLA's default options.
    Otherwise it also returns the output of every module, which changes what XLA fuses; in float64
    it is then compiled with options that compile quickly, and in inference step by step.
    """
    model = nnx.clone(model)
    dtype = jnp.bfloat16 if precision == "bfloat16" else None
    model.set_attributes(use_running_average=not mode.train, dtype=dtype, raise_if_not_found=False)
    drop_nothing(model)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params: Mapping, rest: Mapping, x: Any, recorder: Recorder):
        fresh = nnx.merge(graphdef, params, rest)
        with recorder(fresh) as outputs:
            outputs[""] = y = fresh(x)
        stats = nnx.to_pure_dict(nnx.state(fresh, nnx.BatchStat)) if mode.train else {}
        return y, (outputs, stats)

    def loss(params: Mapping, rest: Mapping, x: Any):
        y, found = forward(params, rest, x, recorder)
        parts = tensors("", y).values()
        return sum((part * cotangent(part.shape).astype(precision)).sum() for part in parts), found

    recorder: Recorder = _output_alone if mode.whole else record_outputs
    is_quick = precision == "float64" and not mode.whole
    inputs = _stored(params, precision), _stored(rest, precision), x.astype(precision)
    gradients: Mapping = {}
    if mode.grad:
        compute = jax.jit(jax.grad(loss, has_aux=True), donate_argnums=0)  # reused for gradients
        lowered = compute.lower(*inputs)
        options = quick_to_compile(model, grad=True) if is_quick else {}
        gradients, (outputs, stats) = lowered.compile(compiler_options=options)(*inputs)
    elif is_quick:
        by_step = partial(record_by_step, options=partial(quick_to_compile, grad=False))
        _, (outputs, stats) = forward(*inputs, by_step)
    else:
        compute = jax.jit(lambda params, rest, x: forward(params, rest, x, recorder)[1])
        outputs, stats = compute(*inputs)
    modules: dict[str, np.ndarray] = {}
    for foreign, pair in output_pairs(keys, mode.whole).items():
        if pair.native in outputs:
            named = tensors(foreign, outputs[pair.native])
            modules |= {name: np.asarray(part) for name, part in named.items()}
    return Run(modules, _by_entry(keys, stats), _by_entry(keys, gradients))


def _output_alone(_model: nnx.Module) -> AbstractContextManager[dict[str, Any]]:
    """A recorder that records nothing, so that the program is the one that users run."""
    return nullcontext({})


def _stored(state: nnx.State, precision: Precision) -> dict:
    """The variables in the dtype in which they are stored."""
    kept = "float64" if precision == "float64" else "float32"

    def cast(a: jax.Array) -> jax.Array:  # one by one: memory may hold a large model only once
        is_float = jnp.issubdtype(a.dtype, np.floating)
        return jax.device_put(np.asarray(a, kept), may_alias=False) if is_float else a

    return jax.tree.map(cast, nnx.to_pure_dict(state))


def _by_path(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """Flatten a nested dict to a dict from dotted paths to leaves."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _by_path(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _by_entry(keys: KeyMap, tree: Mapping) -> dict[str, np.ndarray]:
    values = _by_path(tree)
    return {e.foreign: np.asarray(values[e.native]) for e in keys.entries if e.native in values}
