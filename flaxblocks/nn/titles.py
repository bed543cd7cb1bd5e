"""Short descriptions of layers, as shown in diagrams."""

from collections.abc import Sequence

__all__ = ["convolution_title", "pool_title"]


def convolution_title(
    taps: Sequence[int], groups: int, in_features: int, stride: Sequence[int]
) -> str:
    """The description of a convolution, such as `3x3 depthwise, stride 2`."""
    kind = "conv" if groups == 1 else f"conv in {groups} groups"
    kind = "depthwise" if groups == in_features > 1 else kind
    return f"{_by(taps)} {kind}{_stride(stride)}"


def pool_title(window: Sequence[int], kind: str, stride: Sequence[int]) -> str:
    """The description of a pool, such as `3x3 max pool, stride 2`."""
    return f"{_by(window)} {kind}{_stride(stride)}"


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _stride(stride: Sequence[int]) -> str:
    if set(stride) == {1}:
        return ""
    return f", stride {stride[0] if len(set(stride)) == 1 else tuple(stride)}"
