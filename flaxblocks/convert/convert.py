"""Weights from PyTorch into a Flax module, and back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.module_versions import with_versions
from flaxblocks.convert.batch_counts import COUNT, clipped, read_counts
from flaxblocks.convert.fit import AUTO, ConversionError, fit
from flaxblocks.convert.keymap import Entry, key_map, layouts_of, variables_of
from flaxblocks.create.origin import origin_of, remember
from flaxblocks.create.other_settings import warn_of_other_settings

__all__ = [
    "ConversionError",
    "LoadReport",
    "as_arrays",
    "load_torch",
    "own_layout",
    "to_torch",
    "translate",
]


@dataclass(frozen=True)
class LoadReport:
    """What `load_torch` did.

    Attributes:
        layout: whose naming the source was in.
        loaded: variables filled from the source.
        missing: keys that the source lacked (with `strict=False`); their variables are as they
            were.
        unexpected: keys of the source that were not used (with `strict=False`).
        uncounted: batch counts that the source, older than PyTorch 0.4.1, lacked, and which are 0
            now.
        cast: (key, dtype in the source, dtype of the variable) wherever the two differ; of batch
            counts those that the variable has no room for, and which are its largest or smallest
            number now.
    """

    layout: str
    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    cast: tuple[tuple[str, str, str], ...] = ()

    @property
    def dialect(self) -> str:
        """An older name of `layout`."""
        return self.layout

    def __str__(self) -> str:
        """One line: `314 variables loaded in layout 'torchvision'`, and what is worth knowing
        besides.
        """
        extras = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "batch counts set to 0": self.uncounted,
            "cast to another dtype": self.cast,
        }
        notes = [f"{len(names)} {what}" for what, names in extras.items() if names]
        return ", ".join([f"{self.loaded} variables loaded in layout {self.layout!r}", *notes])


def load_torch(
    model: nnx.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    layout: str = AUTO,
    strict: bool = True,
    *,
    dialect: str | None = None,
) -> LoadReport:
    """Fill a module, in place, from a PyTorch state dict.

    Every key is used once, every variable filled once, every shape equal; otherwise nothing is
    changed.

    Args:
        model: any module with a key map: a registered model, or a lone block. An abstract one from
            `nnx.eval_shape` is filled too.
        source: a `.pth`, `.pt` or `.safetensors` file, or a mapping of keys to NumPy arrays or
            torch tensors; a state dict inside of a training checkpoint is found as
            `read_checkpoint` finds it.
        layout: the layout of the source; "auto" takes the one whose keys match.
        strict: refuse missing and unexpected keys; with False they are left alone and reported.
        dialect: an older name of `layout`.

    Raises:
        CheckpointError: the file cannot be read.
        ConversionError: keys, shapes or kinds of number do not fit; every fault is listed.
    Warns: UserWarning if the library of the source's layout gives the network other settings, such
        as another epsilon, which no state dict holds.
    """
    arrays = as_arrays(source)
    found = fit(model, arrays, dialect or layout, strict)
    variables = variables_of(model)
    values, cast = {}, []
    for entry in found.keys.entries:
        variable = variables[entry.native]
        if entry.foreign in arrays:
            array = arrays[entry.foreign]
            value = _to_variable(entry, array, variable)
            kept = entry.foreign.endswith(COUNT) and value == array
            if value.dtype != array.dtype and not kept:
                cast.append((entry.foreign, str(array.dtype), str(value.dtype)))
        elif entry.foreign in found.uncounted:
            value = np.zeros(entry.shape, variable.dtype)
        else:
            continue
        first = values.setdefault(entry.native, value)
        if first is not value:
            _check_same(entry, first, value)
    loaded = len(values) - len(found.uncounted)
    while values:  # a copy goes as soon as JAX has its own
        path, value = values.popitem()
        _assign(variables[path], value)
    remember(model, layout=found.keys.layout)
    warn_of_other_settings(
        model, found.keys.layout, "`create_model(..., weights=...)` builds the one that fits"
    )
    return LoadReport(
        found.keys.layout,
        loaded,
        found.missing,
        found.unexpected,
        found.uncounted,
        tuple(cast),
    )


def to_torch(
    model: nnx.Module, layout: str = AUTO, *, dialect: str | None = None
) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a module: its keys, order, shapes and dtypes.

    Where PyTorch asks for more than arrays, as for torchvision's MNASNet, it has the attribute
    `_metadata` as PyTorch's own, which a `.pth` of it keeps.

    Args:
        model: any module with a key map.
        layout: the naming to give; "auto" is the one that the module was loaded from, else its
            own.
        dialect: an older name of `layout`.

    Raises: ValueError if the module has no such layout.
    Warns: UserWarning if the library of that layout gives the network other settings, such as
        another epsilon, which no state dict holds.
    """
    layout = dialect or layout
    layout = own_layout(model) if layout == AUTO else layout
    keys = key_map(model, layout)
    warn_of_other_settings(model, layout, "the same weights give other results there")
    values = jax.device_get({path: variable[...] for path, variable in variables_of(model).items()})
    state = {
        entry.foreign: entry.to_foreign(np.asarray(values[entry.native])) for entry in keys.entries
    }
    counted = {
        key: array.astype(np.int64) if key.endswith(COUNT) else array
        for key, array in state.items()
    }
    return with_versions(counted, model, layout)


def own_layout(model: nnx.Module) -> str:
    """What "auto" writes: the layout that the module was loaded from, else its own."""
    return origin_of(model).layout or layouts_of(model)[0]


def translate(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], to: str, layout: str = AUTO
) -> tuple[dict[str, np.ndarray], str]:
    """A state dict in another layout, every dtype kept, and the layout that it was in. No array
    enters JAX.

    Args:
        module: whose key maps to use; an abstract one does.
        arrays: key -> array.
        to: the layout to give.
        layout: the layout of `arrays`; "auto" takes the one whose keys match.

    Raises: ConversionError if the arrays do not fit the module, by kind of number too; ValueError
        for an unknown layout.
    """
    target = key_map(module, to)
    found = fit(module, arrays, layout)
    variables = variables_of(module)

    def native(entry: Entry) -> np.ndarray:
        if entry.foreign not in arrays:  # one of `found.uncounted`
            return np.zeros((), np.int64)
        return entry.to_native(arrays[entry.foreign])

    sources: dict[str, Entry] = {}
    for entry in found.keys.entries:  # what `load_torch` would refuse is not to be written
        if entry.foreign in arrays:
            _check_kind(entry, arrays[entry.foreign], np.dtype(variables[entry.native].dtype))
        first = sources.setdefault(entry.native, entry)
        if first is not entry:
            _check_same(entry, native(first), native(entry))
    translated = {
        entry.foreign: entry.to_foreign(native(sources[entry.native])) for entry in target.entries
    }
    return with_versions(translated, module, to), found.keys.layout


def as_arrays(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A file or a mapping as key -> NumPy array, batch counts as PyTorch reads them; torch tensors
    are told without importing torch.
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise ConversionError(
            f"`source` (a {type(source).__name__}) must be a path or a mapping of names to arrays"
            + (", such as its state_dict()" if hasattr(source, "state_dict") else "")
        )
    if isinstance(source, Mapping) and not source:
        return {}
    try:
        return read_counts(contents_of(source).state_dicts[0].arrays)
    except CheckpointError as error:
        if isinstance(source, Mapping):
            raise ConversionError(str(error)) from error
        raise


def _check_kind(entry: Entry, array: np.ndarray, wanted: np.dtype) -> None:
    """Raise ConversionError unless the source and the model both hold floats, or both integers; a
    count may be either.
    """
    fits = jnp.issubdtype(array.dtype, jnp.floating) == jnp.issubdtype(wanted, jnp.floating)
    count = entry.foreign.endswith(COUNT)  # a float in a state dict that was halved as a whole
    real = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)
    real &= not jnp.issubdtype(array.dtype, jnp.complexfloating)
    if not (real and (fits or count)):
        raise ConversionError(
            f"{entry.foreign} holds {array.dtype}, and the model {wanted}: another kind of number"
        )


def _check_same(entry: Entry, first: np.ndarray, second: np.ndarray) -> None:
    """Raise ConversionError unless the two names of one variable have the same numbers."""
    if not np.array_equal(first, second, equal_nan=True):
        raise ConversionError(
            f"{entry.foreign} is another name of a variable for which the source has other numbers"
        )


def _to_variable(entry: Entry, array: np.ndarray, variable: nnx.Variable) -> np.ndarray:
    """A source array in the variable's layout and dtype, in memory that is nobody else's."""
    wanted = np.dtype(variable.dtype)
    _check_kind(entry, array, wanted)
    if entry.foreign.endswith(COUNT) and jnp.issubdtype(wanted, jnp.integer):
        array = clipped(array, wanted)
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


def _assign(variable: nnx.Variable, value: np.ndarray) -> None:
    """Set a variable, on the devices where it lay."""
    old = variable.get_value()
    committed = isinstance(old, jax.Array) and old.committed
    variable.set_value(jax.device_put(value, old.sharding if committed else None))
