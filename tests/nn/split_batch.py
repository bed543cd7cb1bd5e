"""A batch in parts on two devices is normalised as one: `python -m tests.nn.split_batch`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flaxblocks as fb
from tests.devices import Cases, print_outcomes

__all__ = ["CASES"]

Result = tuple[Any, Any, Any]  # what the module gave, its updated statistics, its gradients
Step = Callable[[Any, jax.Array], Result]
SPLIT = partial(fb.nn.BatchNorm, axis_name="data")
ROWS = [[6, 8, 1, 2]]
BOUND = 1e-12  # in float64, of the largest value


def images(rows: int = 4, channels: int = 5) -> jax.Array:
    values = np.random.default_rng(0).normal(3, 2, (rows, 6, 7, channels))
    values[: rows // 2] += 4  # the parts have other statistics than the whole
    return jnp.asarray(values)


def norm(**options: Any) -> nnx.Module:
    made = fb.nn.BatchNorm(5, param_dtype=jnp.float64, **options)
    assert made.scale is not None
    made.scale[...] = jnp.arange(1.0, 6)
    return made


def step_of(module: nnx.Module, reduce: Callable[[Any], Any] = lambda loss: loss) -> Step:
    """A training step's output, statistics and gradients, of the variables and of the images."""
    graphdef, _, rest = nnx.split(module, nnx.Param, ...)

    def loss_of(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graphdef, params, rest, copy=True)
        y = model(x)
        return reduce(jnp.sin(y).mean()), (y, nnx.state(model, nnx.BatchStat))

    def step(params: Any, x: jax.Array) -> Result:
        gradients, (y, statistics) = jax.grad(loss_of, (0, 1), has_aux=True)(params, x)
        return y, statistics, gradients

    return step


def whole(module: nnx.Module, x: jax.Array) -> Result:
    return jax.jit(step_of(module))(nnx.state(module, nnx.Param), x)


def a_mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((2,), ("data",), axis_types=(kind,))


def mapped(module: nnx.Module, x: jax.Array, mesh: Mesh, name: Any = "data") -> Result:
    """By `jax.shard_map`, which adds up the gradients of what all devices share."""
    split = P(name)
    step = jax.shard_map(
        step_of(module, partial(lax.pmean, axis_name=name)),
        mesh=mesh,
        in_specs=(P(), split),
        out_specs=(split, P(), (P(), split)),
    )
    x = jax.device_put(x, NamedSharding(mesh, split))
    return jax.jit(step)(nnx.state(module, nnx.Param), x)


def averaged(result: Result) -> Result:
    """By hand, where each device has the gradient of the sum of all losses."""
    y, statistics, (params, x) = result
    return y, statistics, (lax.pmean(params, "data"), x / 2)


def check_close(ours: Any, theirs: Any) -> None:
    """Each part to `BOUND` of its largest value: of a network, some gradients and means are 0."""
    for found, wanted in zip(ours, theirs, strict=True):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(wanted)]
        bound = BOUND * max((float(abs(leaf).max()) for leaf in leaves), default=0)
        for one, other in zip(jax.tree.leaves(found), leaves, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def a_norm_under_shard_map() -> None:
    for options in ({}, {"momentum": None}, {"affine": True, "track_running_stats": False}):
        wanted = whole(norm(**options), images())
        for kind in (AxisType.Auto, AxisType.Explicit):
            ours = mapped(norm(axis_name="data", **options), images(), a_mesh(kind))
            check_close(ours, wanted)


def a_norm_under_shard_map_that_checks_nothing() -> None:
    module = norm(axis_name="data")
    step = step_of(module)
    run = jax.shard_map(
        lambda params, x: averaged(step(params, x)),
        mesh=a_mesh(),
        in_specs=(P(), P("data")),
        out_specs=(P("data"), P(), (P(), P("data"))),
        check_vma=False,
    )
    ours = jax.jit(run)(nnx.state(module, nnx.Param), images())
    check_close(ours, whole(norm(), images()))


def a_norm_under_pmap() -> None:
    x, module = images(), norm(axis_name="data")
    step = step_of(module)
    run = jax.pmap(lambda params, x: averaged(step(params, x)), axis_name="data", in_axes=(None, 0))
    y, statistics, (params, slope) = run(
        nnx.state(module, nnx.Param), x.reshape(2, 2, *x.shape[1:])
    )
    for shared in jax.tree.leaves((statistics, params)):
        np.testing.assert_array_equal(shared[0], shared[1])
    first = partial(jax.tree.map, lambda array: array[0])
    ours = y.reshape(x.shape), first(statistics), (first(params), slope.reshape(x.shape))
    check_close(ours, whole(norm(), x))


def a_norm_under_vmap() -> None:
    x, module = images(), norm(axis_name="data")
    parts = x.reshape(2, 2, *x.shape[1:])
    step = step_of(module, partial(lax.pmean, axis_name="data"))
    run = jax.vmap(lambda x: step(nnx.state(module, nnx.Param), x)[0], axis_name="data")
    check_close([jax.jit(run)(parts).reshape(x.shape)], whole(norm(), x)[:1])


def a_norm_over_two_axes() -> None:
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    names = ("data", "fsdp")
    check_close(mapped(norm(axis_name=names), images(), mesh, names), whole(norm(), images()))


def one_value_on_each_device() -> None:
    """It is the whole batch that needs several."""
    x = images()[:2, 0, 0]
    ours, wanted = mapped(norm(axis_name="data"), x, a_mesh()), whole(norm(), x)
    check_close(ours[:2], wanted[:2])  # the gradient is 0: two values are always normalised to +-1


def a_model(norm_layer: Any) -> Any:
    return fb.create_model(
        "mobilenet_v2",
        inverted_residual_setting=ROWS,
        width_mult=0.5,
        num_classes=3,
        dropout=0.0,
        norm_layer=norm_layer,
        param_dtype="float64",
    )


def a_model_whose_norms_are_told_the_axis() -> None:
    x = images(channels=3).repeat(4, 1).repeat(4, 2)
    wanted = whole(a_model("batch_norm"), x)
    check_close(mapped(a_model(SPLIT), x, a_mesh()), wanted)
    later = a_model("batch_norm")
    later.set_attributes(fb.nn.BatchNorm, axis_name="data")
    check_close(mapped(later, x, a_mesh()), wanted)


def without_the_name_each_part_is_a_batch() -> None:
    """So that the cases above show something."""
    x = images()
    step = jax.shard_map(
        lambda x: step_of(norm())(nnx.state(norm(), nnx.Param), x)[0],
        mesh=a_mesh(),
        in_specs=P("data"),
        out_specs=P("data"),
    )
    ours = jax.jit(step)(x)
    assert float(jnp.abs(ours - whole(norm(), x)[0]).max()) > 0.1


def in_float64(case: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with jax.enable_x64(True):
            case()

    return run


CASES: Cases = {
    case.__name__: in_float64(case)
    for case in (
        a_norm_under_shard_map,
        a_norm_under_shard_map_that_checks_nothing,
        a_norm_under_pmap,
        a_norm_under_vmap,
        a_norm_over_two_axes,
        one_value_on_each_device,
        a_model_whose_norms_are_told_the_axis,
        without_the_name_each_part_is_a_batch,
    )
}


if __name__ == "__main__":
    print_outcomes(CASES)
