"""Moving arrays into the variables of a module and out of them, as a key map says."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxblocks.checkpoints.module_versions import with_versions
from flaxblocks.convert.batch_counts import COUNT, clipped
from flaxblocks.convert.fit import ConversionError
from flaxblocks.convert.keymap import Entry, KeyMap, variables_of

__all__ = ["Cast", "Poured", "fill", "state_of", "translated"]

Cast = tuple[str, str, str]  # key, dtype in the source, dtype of the variable
Arrays = Mapping[str, np.ndarray]
BATCH = 32  # number of variables that are moved to the device in one call
Poured = tuple[int, tuple[Cast, ...]]  # number of variables filled, and the casts made


def fill(
    variables: Mapping[str, nnx.Variable],
    keys: KeyMap,
    arrays: Arrays,
    uncounted: Iterable[str] = (),
) -> Poured:
    """Set variables in place; after an error, none of them.

    Args:
        variables: native path -> variable, concrete or abstract, as `variables_of` returns them.
        keys: the key and axes of each array. Shapes are those of the variables.
        arrays: PyTorch key -> array; variables without an array are unchanged.
        uncounted: batch counts to set to 0.

    Returns: the number of variables set from `arrays`, and the casts.
    Raises: ConversionError for a different kind of number, or for one that a variable's dtype
        cannot hold.
    """
    values: dict[str, np.ndarray] = {}
    cast: list[Cast] = []
    absent = frozenset(uncounted)
    for entry in keys.entries:
        variable = variables[entry.native]
        if entry.foreign in arrays:
            value = _of_source(entry, arrays[entry.foreign], variable, cast)
        elif entry.foreign in absent:
            value = np.zeros(variable.shape, variable.dtype)
        else:
            continue
        first = values.setdefault(entry.native, value)
        if first is not value:
            _check_same(entry, first, value)
    loaded = len(values) - len(absent)
    _assign({path: variables[path] for path in values}, values)
    return loaded, tuple(cast)


def _of_source(
    entry: Entry, array: np.ndarray, variable: nnx.Variable, cast: list[Cast]
) -> np.ndarray:
    """An array in the form of its variable; a change of dtype is recorded in `cast`."""
    value = _to_variable(entry, array, variable)
    kept = entry.foreign.endswith(COUNT) and value == array
    if value.dtype != array.dtype and not kept:
        cast.append((entry.foreign, str(array.dtype), str(value.dtype)))
    return value


def state_of(module: nnx.Module, keys: KeyMap) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a module according to a key map; batch counts are int64."""
    held = {path: variable[...] for path, variable in variables_of(module).items()}
    values = jax.device_get(held)
    state = {
        entry.foreign: entry.to_foreign(np.asarray(values[entry.native])) for entry in keys.entries
    }
    counted = {
        key: array.astype(np.int64) if key.endswith(COUNT) else array
        for key, array in state.items()
    }
    return with_versions(counted, module, keys.layout)


def translated(module: nnx.Module, source: KeyMap, target: KeyMap, arrays: Arrays) -> dict:
    """Translate a state dict to another layout, keeping every dtype and without using JAX arrays.

    Args:
        module: the module of the two key maps; it may be abstract.
        source: key map of the layout of `arrays`.
        target: key map of the layout to return.
        arrays: a whole state dict, which may lack batch counts; those are then 0.

    Raises: ConversionError for a different kind of number, or if two names of one variable hold
        different numbers.
    """
    variables = variables_of(module)

    def native(entry: Entry) -> np.ndarray:
        found = arrays.get(entry.foreign)
        return np.zeros((), np.int64) if found is None else entry.to_native(found)

    sources: dict[str, Entry] = {}
    for entry in source.entries:
        if entry.foreign in arrays:
            _check_kind(entry, arrays[entry.foreign], np.dtype(variables[entry.native].dtype))
        first = sources.setdefault(entry.native, entry)
        if first is not entry:
            _check_same(entry, native(first), native(entry))
    given = {
        entry.foreign: entry.to_foreign(native(sources[entry.native])) for entry in target.entries
    }
    return with_versions(given, module, target.layout)


def _check_kind(entry: Entry, array: np.ndarray, wanted: np.dtype) -> None:
    """Raise ConversionError unless array and variable are both floating or both not; a batch count
    may be either. Complex numbers are always refused.
    """
    if array.dtype == wanted:
        return
    fits = jnp.issubdtype(array.dtype, jnp.floating) == jnp.issubdtype(wanted, jnp.floating)
    count = entry.foreign.endswith(COUNT)  # a float in a state dict that was halved as a whole
    real = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)
    real &= not jnp.issubdtype(array.dtype, jnp.complexfloating)
    if not (real and (fits or count)):
        raise ConversionError(
            f"{entry.foreign} holds {array.dtype}, but the model {wanted}: another kind of number"
        )


def _check_same(entry: Entry, first: np.ndarray, second: np.ndarray) -> None:
    """Raise ConversionError unless two names of one variable hold the same numbers."""
    if not np.array_equal(first, second, equal_nan=True):
        raise ConversionError(
            f"{entry.foreign} is another name of a variable for which the source holds different "
            "numbers"
        )


def _to_variable(entry: Entry, array: np.ndarray, variable: nnx.Variable) -> np.ndarray:
    """A source array in the axes and dtype of its variable, in memory of its own."""
    wanted = np.dtype(variable.dtype)
    _check_kind(entry, array, wanted)
    if entry.foreign.endswith(COUNT) and jnp.issubdtype(wanted, jnp.integer):
        array = clipped(array, wanted)
    if entry.shape != tuple(variable.shape):
        entry = replace(entry, shape=tuple(variable.shape))
    value = entry.to_native(array)
    if value.dtype == wanted:
        return value
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value.astype(wanted)
    kept = (
        np.isinf(cast) == np.isinf(value) if jnp.issubdtype(wanted, jnp.floating) else cast == value
    )
    if not np.all(kept):
        lost = value[~kept].flat[0]
        raise ConversionError(f"{entry.foreign} holds {lost}, which the model's {wanted} cannot")
    return cast


def _assign(variables: Mapping[str, nnx.Variable], values: dict[str, np.ndarray]) -> None:
    """Set variables, each on the devices that hold it now. `values` is emptied, so that each copy
    is freed as soon as JAX has its own.
    """
    free = []
    for path, variable in variables.items():
        old = variable.get_value()
        if isinstance(old, jax.Array) and old.committed:
            variable.set_value(jax.device_put(values.pop(path), old.sharding))
        else:
            free.append(path)
    while free:
        batch, free = free[:BATCH], free[BATCH:]
        arrays = jax.device_put([values.pop(path) for path in batch])
        for path, array in zip(batch, arrays, strict=True):
            variables[path].set_value(array)
