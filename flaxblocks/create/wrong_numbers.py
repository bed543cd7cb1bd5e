"""The `num_classes` and `in_channels` with which a checkpoint would fit a module, if it differs in
the head or the first convolution only.
"""

from typing import Any

from flaxblocks.convert.fit import Fit
from flaxblocks.convert.keymap import NATIVE

__all__ = ["fitting_numbers"]


def fitting_numbers(module: Any, found: Fit) -> str:
    """The text `num_classes=7`, `in_channels=1` or both; "" if there is another fault."""
    if found.missing or found.unexpected or not found.misshaped:
        return ""
    stem = f"{getattr(module, 'first_conv', None)}.kernel"
    numbers: dict[str, set[int]] = {}
    for key, shape, needed in found.misshaped:
        is_native = found.keys.layout == NATIVE
        if found.keys.by_foreign[key].native == stem and len(shape) == 4:
            axis, argument = (2 if is_native else 1), "in_channels"
        else:
            axis, argument = (-1 if is_native else 0), "num_classes"
        if len(shape) != len(needed) or needed[axis] != getattr(module, argument, None):
            return ""
        if sum(there != here for there, here in zip(shape, needed, strict=True)) != 1:
            return ""  # a kernel of another size
        numbers.setdefault(argument, set()).add(shape[axis])
    if any(len(values) > 1 for values in numbers.values()):
        return ""
    return ", ".join(f"{argument}={values.pop()}" for argument, values in numbers.items())
