"""`compile_inference` where JAX has eight devices: `python -m tests.eight_devices`."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import flaxblocks as fb
from tests.devices import Cases, print_outcomes

__all__ = ["CASES"]

X = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)


def made() -> Any:
    rows = [[1, 16, 1, 1], [6, 24, 2, 2]]
    options: Any = {"inverted_residual_setting": rows, "width_mult": 0.5, "num_classes": 3}
    return fb.create_model("mobilenet_v2", dropout=0.2, **options)


@cache
def logits() -> np.ndarray:
    """Of `X`, on one device, module by module."""
    model = made()
    model.eval()
    return np.asarray(model(jnp.asarray(X)))


def put(model: nnx.Module, where: Any) -> nnx.Module:
    nnx.update(model, jax.device_put(nnx.state(model), where))
    return model


def meshes(*sizes: int) -> Iterator[Mesh]:
    names = ("data", "fsdp")[: len(sizes)]
    for kind in (AxisType.Auto, AxisType.Explicit):
        yield jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def halved(mesh: Mesh, array: jax.Array) -> NamedSharding:
    """The last axis over `fsdp`, if it is long."""
    is_long = array.ndim > 0 and array.shape[-1] >= 64
    spec = [*(None for _ in array.shape[1:]), "fsdp"] if is_long else []
    return NamedSharding(mesh, PartitionSpec(*spec))


def agrees(run: Callable[[Any], Any], x: Any, *devices: Any) -> None:
    """`run` gives the logits that one device gives, and on these devices."""
    y, wanted = run(x), logits()
    # folded, and a few rows at a time: some hundred float32 roundings of 6e-8
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * abs(wanted).max())
    assert y.sharding.device_set == set(devices), y.sharding


def an_uncommitted_model_follows_the_batch(fold: bool) -> None:
    first, second, *_ = jax.devices()
    run = fb.compile_inference(made(), fold=fold)
    agrees(run, jax.device_put(X, second), second)
    for mesh in (*meshes(8), *meshes(4), *meshes(4, 2)):
        x = jax.device_put(X, by_rows(mesh))
        agrees(run, x, *mesh.devices.flat)
        assert len(run(x).addressable_shards[0].data) == 8 // mesh.size
    for x in (X, jnp.asarray(X), jax.device_put(X, first)):
        agrees(run, x, first)


def it_follows_within_another_program() -> None:
    run = fb.compile_inference(made())
    whole = jax.jit(lambda x: run(x) * 1)
    agrees(whole, jax.device_put(X, jax.devices()[1]), jax.devices()[1])
    for mesh in meshes(8):
        agrees(whole, jax.device_put(X, by_rows(mesh)), *jax.devices())


def weights_are_placed_once() -> None:
    run = fb.compile_inference(made())
    places = (jax.devices()[1], *(by_rows(mesh) for mesh in meshes(8)))
    batches = [jax.device_put(X, place) for place in places]
    for x in batches:
        run(x)
    with jax.transfer_guard("disallow_explicit"):
        for x in batches:
            run(x)


def a_model_on_a_mesh_stays_there(fold: bool) -> None:
    for mesh in meshes(8):
        run = fb.compile_inference(put(made(), NamedSharding(mesh, PartitionSpec())), fold=fold)
        for x in (X, jnp.asarray(X), jax.device_put(X, by_rows(mesh))):
            agrees(run, x, *jax.devices())


def sharded_parameters_stay_sharded(fold: bool) -> None:
    """As `python -m train --mesh data=4,fsdp=2` shards them."""
    model, mesh = made(), next(meshes(4, 2))
    put(model, jax.tree.map(partial(halved, mesh), nnx.state(model)))
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    before = {path: variable.get_value().sharding.spec for path, variable in params}
    assert sum(any(spec) for spec in before.values()) > 5
    run = fb.compile_inference(model, fold=fold)
    for x in (X, jax.device_put(X, by_rows(mesh))):
        agrees(run, x, *jax.devices())
    for path, variable in nnx.to_flat_state(nnx.state(fb.fold_batch_norm(model), nnx.Param)):
        sharding = variable.get_value().sharding
        assert sharding.mesh == mesh
        assert sharding.spec == before.get(path, sharding.spec)  # a bias may be new


def a_committed_model_takes_no_batch_from_elsewhere() -> None:
    first, second, *_ = jax.devices()
    run = fb.compile_inference(put(made(), second))
    for x in (X, jnp.asarray(X), jax.device_put(X, second)):
        agrees(run, x, second)
    for place in (first, *(by_rows(mesh) for mesh in meshes(8))):
        try:
            run(jax.device_put(X, place))
        except ValueError as error:
            message = str(error)
        else:
            raise AssertionError("it was taken")
        on = "cpu:0" if place is first else "cpu:0, cpu:1"
        assert message.startswith(f"`x` (on {on}"), message
        assert "must be on cpu:1, where the model was put" in message, message
        assert "\n" not in message


def a_model_is_where_a_part_of_it_was_put() -> None:
    second, model = jax.devices()[1], made()
    model.head.kernel.set_value(jax.device_put(model.head.kernel.get_value(), second))
    run = fb.compile_inference(model)
    agrees(run, X, second)
    x = jax.device_put(X, second)
    with jax.transfer_guard("disallow_explicit"):
        run(x)


def a_folded_copy_is_committed_where_the_model_was() -> None:
    second = jax.devices()[1]
    for model, committed in ((made(), False), (put(made(), second), True)):
        state = nnx.state(fb.fold_batch_norm(model))
        assert {array.committed for array in jax.tree.leaves(state)} == {committed}


CASES: Cases = {
    case.__name__: case
    for case in (
        it_follows_within_another_program,
        weights_are_placed_once,
        a_committed_model_takes_no_batch_from_elsewhere,
        a_model_is_where_a_part_of_it_was_put,
        a_folded_copy_is_committed_where_the_model_was,
    )
} | {
    f"{case.__name__}, {'folded' if fold else 'as it is'}": lambda case=case, fold=fold: case(fold)
    for case in (
        an_uncommitted_model_follows_the_batch,
        a_model_on_a_mesh_stays_there,
        sharded_parameters_stay_sharded,
    )
    for fold in (True, False)
}


if __name__ == "__main__":
    print_outcomes(CASES)
