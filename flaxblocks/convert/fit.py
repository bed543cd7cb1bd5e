"""The accounting of a conversion: what of a mapping goes where in a module, and what does not add
up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flax import nnx

from flaxblocks.convert.batch_counts import COUNT
from flaxblocks.convert.keymap import KeyMap, key_map, key_maps

__all__ = ["AUTO", "ConversionError", "Fit", "Misshaped", "account", "against", "closest", "fit"]

AUTO = "auto"

Misshaped = tuple[str, tuple[int, ...], tuple[int, ...]]  # key, shape found, shape needed


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
        misshaped: tuple[Misshaped, ...] = (),
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
    """A mapping held against a key map: what goes where, and what was left over.

    Attributes:
        keys: the key map of the layout that the mapping is in.
        missing: keys of `keys` that the mapping lacks, but for `uncounted`.
        uncounted: batch counts that the mapping lacks, of norms whose statistics it has.
        unexpected: keys of the mapping that are not in `keys`.
        misshaped: what both have in different shapes.
    """

    keys: KeyMap
    missing: tuple[str, ...]
    uncounted: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[Misshaped, ...]

    @property
    def faults(self) -> int:
        """How many names are in one of the two only."""
        return len(self.missing) + len(self.unexpected)

    @property
    def is_whole(self) -> bool:
        """Everything adds up."""
        return not (self.missing or self.unexpected or self.misshaped)


def against(keys: KeyMap, arrays: Mapping[str, np.ndarray]) -> Fit:
    """Hold a mapping against a key map; nothing is refused."""
    known = keys.by_foreign
    absent = [key for key in known if key not in arrays]
    uncounted = frozenset(_uncounted(absent, arrays))
    shapes = (
        (key, arrays[key].shape, entry.foreign_shape)
        for key, entry in known.items()
        if key in arrays
    )
    return Fit(
        keys,
        missing=tuple(key for key in absent if key not in uncounted),
        uncounted=tuple(key for key in absent if key in uncounted),
        unexpected=tuple(key for key in arrays if key not in known),
        misshaped=tuple(row for row in shapes if row[1] != row[2]),
    )


def _uncounted(absent: Iterable[str], arrays: Mapping[str, np.ndarray]) -> Iterable[str]:
    """The counts of norms that are there with their statistics, as before PyTorch 0.4.1."""
    for key in absent:
        norm = key.removesuffix(COUNT)
        if key.endswith(COUNT) and (f"{norm}running_mean" in arrays or f"{norm}mean" in arrays):
            yield key


def closest(module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> Fit:
    """The module's layout that shares most keys with `arrays`, the first of equals, whatever does
    not add up.

    Raises: ValueError if every layout of PyTorch's misses a variable of the module, and `arrays`
        have not Flax's names.
    """
    fits = []
    for keys in key_maps(module):
        fits.append(against(keys, arrays))
        if not fits[-1].faults:
            break
    return min(fits, key=lambda found: found.faults)


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
    auto = layout == AUTO
    found = closest(module, arrays) if auto else against(key_map(module, layout), arrays)
    how = f"in layout {found.keys.layout!r}" + (", the nearest" if auto else "")
    account(found, arrays, f"{type(module).__name__} {how}", strict)
    return found


def account(
    found: Fit,
    arrays: Mapping[str, np.ndarray],
    model: str,
    strict: bool = True,
    besides: str = "",
    hint: str = "",
) -> None:
    """Refuse what does not add up.

    Args:
        found: the mapping, held against a key map.
        arrays: the mapping itself.
        model: what it was held against, in words: `ResNet in layout 'timm'`.
        strict: refuse missing and unexpected keys too.
        besides: what the checkpoint is instead, as `is one of resnet34 and `.
        hint: what would help, at the end of the sentence.

    Raises: ConversionError, naming every fault.
    """
    if not arrays:
        raise ConversionError("the checkpoint holds no arrays")
    if len(found.unexpected) == len(arrays):
        raise ConversionError(
            f"no key of the checkpoint belongs to {model}: it has keys such as "
            f"{', '.join(list(arrays)[:3])}, the model such as "
            f"{', '.join(list(found.keys.by_foreign)[:3])}{hint}"
        )
    if found.misshaped or (strict and found.faults):
        raise ConversionError(
            f"the checkpoint {besides}does not fit {model}",
            found.missing if strict else (),
            found.unexpected if strict else (),
            found.misshaped,
            hint,
        )
