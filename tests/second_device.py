"""`create_model` for the second of two devices: `python -m tests.second_device`."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import flaxblocks as fb
from flaxblocks.blocks import ResidualAdd
from flaxblocks.create.host import built_on_host
from flaxblocks.nn import Conv
from tests.devices import Cases, print_outcomes

__all__ = ["CASES"]

SMALL: dict[str, Any] = {
    "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2]],
    "width_mult": 0.5,
    "dropout": 0.2,
    "stochastic_depth": 0.1,
}


def made(**options: Any) -> nnx.Module:
    return fb.create_model("mobilenet_v2", **{"num_classes": 3, **SMALL, **options})


@cache
def weights() -> dict[str, np.ndarray]:
    return fb.to_torch(made(num_classes=5, rngs=7))


def values(state: Any) -> dict[tuple, np.ndarray]:
    """The numbers of a state, also of the random keys in it."""

    def numbers(array: Any) -> np.ndarray:
        is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(array) if is_key else array)

    return {path: numbers(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def check_equal(ours: Any, theirs: Any) -> None:
    ours, theirs = values(ours), values(theirs)
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].dtype == array.dtype, path
        np.testing.assert_array_equal(ours[path], array, err_msg=str(path))


def check_same(make: Callable[[], nnx.Module]) -> nnx.Module:
    """What `make` gives for the second device is what it gives for the first, but for the place."""
    first, second = jax.devices()
    theirs = make()
    with jax.default_device(second):
        ours = make()
    check_equal(nnx.state(ours), nnx.state(theirs))
    assert str(nnx.graphdef(ours)) == str(nnx.graphdef(theirs))
    here, there = (jax.tree.leaves(nnx.state(model)) for model in (theirs, ours))
    assert [jax.typeof(array) for array in there] == [jax.typeof(array) for array in here]
    for arrays, device in ((here, first), (there, second)):
        assert all(array.devices() == {device} for array in arrays)
        assert not any(array.committed for array in arrays)
    return ours


def a_drawn_model_is_the_same_there() -> None:
    seeds: tuple[Callable[[], Any], ...] = (
        lambda: 3,
        lambda: jax.random.key(3),
        lambda: jax.random.PRNGKey(3),
        lambda: nnx.Rngs(3),
        lambda: nnx.Rngs(params=3, dropout=4),
    )
    for seed in seeds:
        check_same(lambda seed=seed: made(rngs=seed()))
    check_same(lambda: made(param_dtype="bfloat16", features_only=True))
    with jax.enable_x64(True):
        check_same(lambda: made(param_dtype="float64"))


def a_loaded_model_is_the_same_there() -> None:
    headless = dict(list(weights().items())[:-2])
    for state, classes in ((weights(), None), (weights(), 9), (headless, 1000)):
        check_same(lambda state=state, classes=classes: made(weights=state, num_classes=classes))
    check_same(lambda: made(weights=weights(), num_classes=9, in_channels=1, rngs=nnx.Rngs(4)))


def keys_on_a_device_are_brought_to_the_host() -> None:
    second = jax.devices()[1]
    wanted = nnx.state(made(rngs=3))
    key = jax.device_put(jax.random.key(3), second)
    rngs = nnx.Rngs(3)
    nnx.update(rngs, jax.device_put(nnx.state(rngs), second))
    with jax.default_device(second):
        for given in (key, rngs):
            ours = nnx.state(made(rngs=given))
            check_equal(ours, wanted)
            assert not any(array.committed for array in jax.tree.leaves(ours))
    assert all(array.devices() == {second} for array in jax.tree.leaves(nnx.state(rngs)))


def nothing_is_computed_there() -> None:
    """What was compiled for the first device serves; the second would need programs of its own."""
    weights()
    jax.clear_caches()  # of programs that the cases before needed
    for options in ({}, {"weights": weights(), "num_classes": 9, "in_channels": 1}):
        with jax.default_device(jax.devices()[0]):
            made(rngs=jax.random.key(0), **options)
        messages: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())  # noqa: B023
        logging.getLogger("jax").addHandler(handler)
        with jax.default_device(jax.devices()[1]):
            key = jax.random.key(0)
            with jax.log_compiles():
                made(rngs=3, **options)
                made(rngs=key, **options)
        logging.getLogger("jax").removeHandler(handler)
        assert not [text for text in messages if "XLA compilation" in text], messages


def what_is_shared_stays_shared() -> None:
    def build(seed: int) -> nnx.Module:
        first, second = (Conv(6, 6, 3, rngs=nnx.Rngs(seed)) for _ in range(2))
        second.kernel.set_value(first.kernel.get_value())
        return ResidualAdd(nnx.Sequential(first, second), first)

    ours: Any = check_same(lambda: built_on_host(build, 3))
    first, second = ours.block.layers
    assert first is ours.shortcut
    assert first.kernel is not second.kernel
    assert first.kernel.get_value() is second.kernel.get_value()
    assert first.bias.get_value() is not second.bias.get_value()


def tracers_are_left_alone() -> None:
    def state(seed: Any) -> nnx.State:
        return nnx.state(made(rngs=seed))

    second = jax.devices()[1]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    wanted = state(3)
    keys = jax.random.split(jax.random.key(0), 2)
    each = [state(key) for key in keys]
    with jax.default_device(second):
        check_equal(jax.jit(lambda: state(3))(), wanted)
        check_equal(jax.jit(state)(jax.random.key(3)), wanted)
        sharded = jax.jit(lambda: state(3), out_shardings=whole)()
        check_equal(sharded, wanted)
        assert all(array.sharding.mesh == mesh for array in jax.tree.leaves(sharded))
        several = jax.vmap(state)(keys)
        for i, one in enumerate(each):
            check_equal(jax.tree.map(lambda array, i=i: array[i], several), one)
        shapes = nnx.state(nnx.eval_shape(lambda: made(rngs=3)))
        assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, shapes, wanted))
        with jax.set_mesh(mesh):
            on_mesh = state(3)
        check_equal(on_mesh, wanted)
        params = jax.tree.leaves(nnx.filter_state(on_mesh, nnx.Param))
        assert all(array.sharding.mesh == mesh for array in params)


def without_a_cpu_the_device_draws() -> None:
    second = jax.devices()[1]
    wanted = nnx.state(made(rngs=3))
    missing = patch.object(jax, "local_devices", side_effect=RuntimeError("no backend cpu"))
    with jax.default_device(second), missing:
        ours = nnx.state(made(rngs=3))
    check_equal(ours, wanted)
    assert all(array.devices() == {second} for array in jax.tree.leaves(ours))


def a_platform_by_name_is_a_default_device() -> None:
    with jax.default_device("cpu"):  # pyright: ignore[reportArgumentType]
        arrays = jax.tree.leaves(nnx.state(made()))
    assert all(array.devices() == {jax.devices()[0]} for array in arrays)
    with jax.default_device(jax.devices()[1]):
        run = fb.compile_inference(made())
        assert run(jnp.ones((1, 32, 32, 3))).devices() == {jax.devices()[1]}


CASES: Cases = {
    case.__name__: case
    for case in (
        a_drawn_model_is_the_same_there,
        a_loaded_model_is_the_same_there,
        keys_on_a_device_are_brought_to_the_host,
        nothing_is_computed_there,
        what_is_shared_stays_shared,
        tracers_are_left_alone,
        without_a_cpu_the_device_draws,
        a_platform_by_name_is_a_default_device,
    )
}


if __name__ == "__main__":
    print_outcomes(CASES)
