"""Arithmetic on channel numbers, and the checks of the integers a block is built from."""

from numbers import Integral

__all__ = ["expanded_features", "make_divisible", "reduced_features", "require_positive"]


def require_positive(**arguments: int) -> None:
    """Raise ValueError unless every named argument is an integer of at least 1."""
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` (={value!r}) must be an integer of at least 1")


def make_divisible(value: float, divisor: int = 8, min_value: int | None = None) -> int:
    """Round a width to the nearest multiple of `divisor`, ties up, never below 90% of `value`.

    Args:
        value: The width wanted, such as 32 channels times a width multiplier.
        divisor: What the result must be a multiple of.
        min_value: The least result; `divisor` if None.

    Returns: The width. With the defaults 11.2 gives 16 (8 would lose 29%) and 33.6 gives 32.

    Raises: ValueError if `divisor` < 1.

    Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, the authors' implementation.
    """
    require_positive(divisor=divisor)
    nearest = int(value + divisor / 2) // divisor * divisor
    width = max(divisor if min_value is None else min_value, nearest)
    return width + divisor if width < 0.9 * value else width


def expanded_features(in_features: int, expansion: float) -> int:
    """The hidden width of an inverted bottleneck: `in_features * expansion`, rounded half to even.

    Raises: ValueError if no channel is left.
    """
    hidden = round(in_features * expansion)
    if hidden < 1:
        raise ValueError(
            f"`expansion` (={expansion}) must leave a channel of `in_features` (={in_features})"
        )
    return hidden


def reduced_features(name: str, features: int, reduction: int) -> int:
    """The hidden width of a bottleneck, `features // reduction`.

    Args:
        name: What the caller's argument for `features` is called.
        features: The width to reduce.
        reduction: What to divide it by.

    Raises: ValueError if `reduction` < 1 or no channel is left.
    """
    require_positive(reduction=reduction)
    if features < reduction:
        raise ValueError(
            f"`reduction` (={reduction}) must not exceed `{name}` (={features}): "
            "no channel would be left"
        )
    return features // reduction
