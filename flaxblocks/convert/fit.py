"""The accounting of a conversion: which key of a state dict belongs to which variable of a module,
and what does not match.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flax import nnx

from flaxblocks.convert.batch_counts import COUNT
from flaxblocks.convert.keymap import KeyMap, key_map, key_maps

__all__ = ["AUTO", "ConversionError", "Fit", "Misshaped", "account", "against", "fit", "nearest"]

AUTO = "auto"

Misshaped = tuple[str, tuple[int, ...], tuple[int, ...]]  # key, shape found, shape needed


class ConversionError(ValueError):
    """A state dict does not fit a module. The message and the attributes list every fault.

    Attributes:
        missing: PyTorch keys that the module needs and the state dict lacks.
        unexpected: keys of the state dict to which nothing in the module corresponds.
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
        """The message, with at most `most` names of each kind of fault; by default with all."""
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
    """The result of comparing a state dict with a key map.

    Attributes:
        keys: the key map of the state dict's layout.
        missing: keys of `keys` that the state dict lacks, except `uncounted`.
        uncounted: batch counts that the state dict lacks, of norms whose statistics it has.
        unexpected: keys of the state dict that are not in `keys`.
        misshaped: keys in both with different shapes: (key, shape found, shape needed).
    """

    keys: KeyMap
    missing: tuple[str, ...]
    uncounted: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[Misshaped, ...]

    @property
    def faults(self) -> int:
        """The number of missing and unexpected keys."""
        return len(self.missing) + len(self.unexpected)

    @property
    def is_whole(self) -> bool:
        """Whether there is no fault, in keys or shapes."""
        return not (self.missing or self.unexpected or self.misshaped)


def against(keys: KeyMap, arrays: Mapping[str, np.ndarray]) -> Fit:
    """Compare a state dict with a key map; nothing is refused."""
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
    """The absent counts of norms whose statistics are present, as before PyTorch 0.4.1."""
    for key in absent:
        norm = key.removesuffix(COUNT)
        if key.endswith(COUNT) and (f"{norm}running_mean" in arrays or f"{norm}mean" in arrays):
            yield key


def nearest(maps: Iterable[KeyMap], arrays: Mapping[str, np.ndarray]) -> Fit:
    """The fit of the key map with the fewest missing and unexpected keys, the first if several are
    equal. The maps after the first without any are not made.

    Raises: ValueError from `key_maps`, if every PyTorch layout lacks a variable of the module and
        `arrays` do not have Flax's names.
    """
    fits = []
    for keys in maps:
        fits.append(against(keys, arrays))
        if not fits[-1].faults:
            break
    return min(fits, key=lambda found: found.faults)


def fit(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], layout: str = AUTO, strict: bool = True
) -> Fit:
    """Compare a state dict with a module, and refuse it if it does not fit.

    Args:
        module: a concrete or abstract module.
        arrays: key -> array.
        layout: one of the module's layouts; "auto" determines it from the keys.
        strict: refuse missing and unexpected keys. Wrong shapes are always refused.

    Raises: ConversionError that lists every fault; ValueError for an unknown layout.
    """
    auto = layout == AUTO
    found = nearest(key_maps(module), arrays) if auto else against(key_map(module, layout), arrays)
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
    """Refuse a state dict that does not fit.

    Args:
        found: the state dict, compared with a key map.
        arrays: the state dict itself.
        model: description of the model in the message, such as `ResNet in layout 'timm'`.
        strict: refuse missing and unexpected keys too.
        besides: what the checkpoint is instead, such as `is one of resnet34 and `.
        hint: suggestion at the end of the message.

    Raises: ConversionError that lists every fault.
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
