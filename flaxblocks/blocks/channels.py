"""Rounding of channel counts."""

from flaxblocks.nn.arguments import check_positive

__all__ = ["make_divisible"]


def make_divisible(
    value: float, divisor: int = 8, minimum: int | None = None, least_part: float = 0.9
) -> int:
    """The multiple of `divisor` nearest to `value`, never below 90% of it: 11.2 -> 16, 18 -> 24,
    33.6 -> 32.

    Args:
        value: a channel count, as a width multiplier left it.
        divisor: what the result is a multiple of.
        minimum: the least result; `divisor` unless given.
        least_part: the part of `value` that the result is not to go below; 0 takes the nearest.

    Source: the TensorFlow MobileNet code, which torchvision and timm follow.
    """
    check_positive(divisor=divisor)
    nearest = max(minimum or divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < least_part * value else nearest
