"""XLA options for what runs but a few times, where compiling takes most of the time: the one place
that asks a compiler for anything.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxblocks.nn import Conv

__all__ = ["quick_to_compile"]

Options = dict[str, Any]


def quick_to_compile(model: nnx.Module | None, *, grad: bool) -> Options:
    """The options with which a CPU or a GPU compiles a model and runs it once in the least time;
    none for another backend.

    For float64, where the mathematics counts and not the rounding. On a CPU the gradients of a
    model of depthwise convolutions compile in a fifth of the processor time, and what XLA sets
    aside beside inputs and outputs falls to a quarter; a GPU takes a quarter less time.

    Args:
        model: what will be compiled; None for what has no convolutions, such as an optimiser.
        grad: its gradients will be.
    """
    if jax.default_backend() == "gpu":  # no kernel is tried out, to take the fastest of them
        return _taken({"xla_gpu_autotune_level": 0})
    memory = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    unoptimized = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,  # to split takes longer than to generate
    }
    modules = () if model is None else nnx.iter_modules(model)
    convs = (m for _, m in modules if isinstance(m, Conv))
    if any(_is_slow_unoptimized(conv, grad) for conv in convs):
        return _taken(memory | {"xla_backend_optimization_level": 1})
    return _taken(memory | unoptimized)


def _is_slow_unoptimized(conv: Conv, grad: bool) -> bool:
    """Without optimisation the loops of its windows take up to a hundred times as long."""
    if conv.groups > 1:
        return conv.groups < conv.in_features
    is_stem = conv.in_features <= 4
    return grad and not is_stem and max(conv.kernel_size) > 1


def _taken(options: Options) -> Options:
    """Those of `options` that this backend has a use for and this jaxlib knows: they come and go
    from one release to the next.
    """
    if jax.default_backend() not in ("cpu", "gpu"):
        return {}
    return {name: value for name, value in options.items() if _is_known(name, value)}


@cache
def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True
