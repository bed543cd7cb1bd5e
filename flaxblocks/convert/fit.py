"""The accounting of a conversion: which layout an array mapping speaks, and whether everything in
it adds up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flax import nnx

from flaxblocks.convert.batch_counts import COUNT
from flaxblocks.convert.keymap import NATIVE, KeyMap, key_map, key_maps

__all__ = ["RECOGNISERS", "ConversionError", "Fit", "closest", "fit"]

AUTO = "auto"
# What can name the model that a refused checkpoint is of. The registry's side puts itself in here:
# this package knows of no models.
RECOGNISERS: list[Callable[[Mapping[str, np.ndarray]], str | None]] = []


class ConversionError(ValueError):
    """A mapping does not fit a module. The message lists every fault; so do the attributes.

    Attributes:
        missing: foreign keys that the module needs and the mapping lacks.
        unexpected: keys that the module has no place for.
        misshaped: (key, shape found, shape needed).
    """

    def __init__(
        self,
        subject: str,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
        hint: str = "",
    ):
        self.subject, self.hint = subject, hint
        self.missing, self.unexpected, self.misshaped = missing, unexpected, misshaped
        super().__init__(self.describe())

    def describe(self, most: int | None = None) -> str:
        """The message, with at most `most` names a kind; all of them unless given."""
        shapes = [
            f"{key} has shape {found}, expected {needed}" for key, found, needed in self.misshaped
        ]
        parts = []
        for kind, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("misshaped", shapes),
        ):
            if names:
                rest = len(names) - most if most is not None and len(names) > most else 0
                listed = ", ".join(names[:most]) + (f" and {rest} more" if rest else "")
                parts.append(f"{len(names)} {kind}: {listed}")
        return self.subject + (": " if parts else "") + "; ".join(parts) + self.hint


@dataclass(frozen=True)
class Fit:
    """A mapping held against a module: what goes where, and what was left over.

    Attributes:
        keys: the key map of the layout that the mapping speaks.
        missing: keys of `keys` that the mapping lacks, but for `uncounted`.
        uncounted: batch counts that the mapping lacks, of norms whose statistics it has.
        unexpected: keys of the mapping that are not in `keys`.
    """

    keys: KeyMap
    missing: tuple[str, ...]
    uncounted: tuple[str, ...]
    unexpected: tuple[str, ...]


def fit(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], layout: str = AUTO, strict: bool = True
) -> Fit:
    """Hold a state dict against a module.

    Args:
        module: concrete or abstract.
        arrays: key -> array.
        layout: one of the module's, or "auto" for the one whose keys are these.
        strict: refuse missing and unexpected keys. Wrong shapes are refused always.

    Raises: ConversionError, naming every fault; ValueError for an unknown layout.
    """
    if not arrays:
        raise ConversionError("the checkpoint holds no arrays")
    auto = layout == AUTO
    best = closest(module, arrays) if auto else _against(key_map(module, layout), arrays)
    needed = best.keys.by_foreign
    misshaped = tuple(
        (key, array.shape, needed[key].foreign_shape)
        for key, array in arrays.items()
        if key in needed and array.shape != needed[key].foreign_shape
    )
    name = type(module).__name__
    how = f"in layout {best.keys.layout!r}" + (", the nearest" if auto else "")
    if len(best.unexpected) == len(arrays):
        raise ConversionError(
            f"no key of the checkpoint belongs to {name} {how}: it has keys such as "
            f"{', '.join(list(arrays)[:3])}, the model such as {', '.join(list(needed)[:3])}"
            + (_prefix_hint(arrays, needed) or _model_hint(arrays, "; it is one of {}"))
        )
    if misshaped or (strict and (best.missing or best.unexpected)):
        whole = not (best.missing or best.unexpected)
        hint = _numbers_hint(module, misshaped, best.keys) if whole else ""
        raise ConversionError(
            "the checkpoint "
            + ("" if hint else _model_hint(arrays, "is one of {} and "))
            + f"does not fit {name} {how}",
            best.missing if strict else (),
            best.unexpected if strict else (),
            misshaped,
            hint,
        )
    return best


def closest(module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> Fit:
    """The module's layout that shares most keys with `arrays`, the first of equals, whatever does
    not add up.

    Raises: ValueError if a layout misses a variable of the module, and `arrays` are neither its
        own nor those of a layout before it.
    """
    fits = []
    try:
        for keys in key_maps(module):
            fits.append(_against(keys, arrays))
            if not _faults(fits[-1]):
                break
    except ValueError:  # the native names are never amiss
        native = _against(key_map(module, NATIVE), arrays)
        if _faults(native):
            raise
        return native
    return min(fits, key=_faults)


def _against(keys: KeyMap, arrays: Mapping[str, np.ndarray]) -> Fit:
    absent = [entry.foreign for entry in keys.entries if entry.foreign not in arrays]
    known = keys.by_foreign
    # A norm that is there with its statistics, and has no count, as before PyTorch 0.4.1.
    uncounted = [
        key
        for key in absent
        if key.endswith(COUNT)
        and any(f"{key.removesuffix(COUNT)}{mean}" in arrays for mean in ("running_mean", "mean"))
    ]
    return Fit(
        keys,
        missing=tuple(key for key in absent if key not in uncounted),
        uncounted=tuple(uncounted),
        unexpected=tuple(key for key in arrays if key not in known),
    )


def _faults(found: Fit) -> int:
    return len(found.missing) + len(found.unexpected)


def _prefix_hint(arrays: Mapping[str, np.ndarray], needed: Mapping[str, object]) -> str:
    """Where every key has one word too many at the front, say which."""
    first = next(iter(arrays), "")
    prefix = next(
        (
            first[: i + 1]
            for i, letter in enumerate(first)
            if letter == "." and first[i + 1 :] in needed
        ),
        "",
    )
    if not prefix or not all(key.startswith(prefix) for key in arrays):
        return ""
    return f"; take {prefix!r} off the front of each key"


def _model_hint(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Where another model would take all of the checkpoint, `text` with its name."""
    name = next(filter(None, (recognise(arrays) for recognise in RECOGNISERS)), None)
    return "" if name is None else text.format(name)


def _numbers_hint(
    module: nnx.Module,
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...],
    keys: KeyMap,
) -> str:
    """Where only the head or the first convolution differs, say which argument would fit."""
    stem = f"{getattr(module, 'first_conv', None)}.kernel"
    numbers: dict[str, set[int]] = {}
    for key, found, needed in misshaped:
        if keys.by_foreign[key].native == stem and len(found) == 4:
            axis, argument = (2 if keys.layout == NATIVE else 1), "in_channels"
        else:
            axis, argument = (-1 if keys.layout == NATIVE else 0), "num_classes"
        if len(found) != len(needed) or needed[axis] != getattr(module, argument, None):
            return ""
        numbers.setdefault(argument, set()).add(found[axis])
    if not numbers or any(len(values) > 1 for values in numbers.values()):
        return ""
    listed = ", ".join(f"{argument}={values.pop()}" for argument, values in numbers.items())
    return f" (a model built with {listed} would fit)"
