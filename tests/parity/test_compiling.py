"""Compiler options reach only the backends and the jaxlibs that take them."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flaxblocks.nn import Conv
from flaxblocks.parity import compiling
from flaxblocks.parity.compiling import quick_to_compile

MODELS = [None, Conv(3, 4, 3, rngs=nnx.Rngs(0)), Conv(4, 4, 3, groups=2, rngs=nnx.Rngs(0))]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_this_jaxlib_takes_every_option(model, grad):
    options = quick_to_compile(model, grad=grad)
    assert "xla_backend_optimization_level" in options
    assert jax.jit(jnp.square, compiler_options=options)(3.0) == 9.0


def test_an_option_that_this_jaxlib_has_not_is_left_out():
    gone = {"xla_cpu_gone_with_the_next_release": True}
    assert compiling._taken(gone | {"xla_backend_optimization_level": 1}) == {
        "xla_backend_optimization_level": 1
    }


def test_a_value_that_is_refused_is_no_missing_option():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiling._taken({"xla_backend_optimization_level": "none"})


@pytest.mark.parametrize(("backend", "own"), [("gpu", {"xla_gpu_autotune_level": 0}), ("tpu", {})])
def test_no_option_reaches_another_backend(backend, own, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert quick_to_compile(None, grad=True).items() <= own.items()
