"""Rounding of channel counts."""

from flaxblocks.nn.arguments import check_positive

__all__ = ["make_divisible"]


def make_divisible(
    value: float, divisor: int = 8, minimum: int | None = None, least_part: float = 0.9
) -> int:
    """Round to the nearest multiple of `divisor`, but not below 90% of `value`.

    For example, 11.2 -> 16, 18 -> 24 and 33.6 -> 32.

    Args:
        value: a channel count, as scaled by a width multiplier.
        divisor: the result is a multiple of it.
        minimum: smallest result; by default `divisor`.
        least_part: smallest allowed ratio of the result to `value`; 0 allows any rounding down.

    Source: the TensorFlow MobileNet code, which torchvision and timm follow.
    """
    check_positive(divisor=divisor)
    nearest = max(minimum or divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < least_part * value else nearest
