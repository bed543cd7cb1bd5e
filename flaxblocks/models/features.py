"""The feature maps of a model, as timm describes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flaxblocks.nn.arguments import is_integer

__all__ = ["Feature", "FeatureInfo"]


@dataclass(frozen=True)
class Feature:
    """A feature map of a model.

    Attributes:
        module: native path of the module that returns it.
        channels: its channels.
        reduction: input pixels per cell, along one axis.
    """

    module: str
    channels: int
    reduction: int


@dataclass(frozen=True)
class FeatureInfo(Sequence[Feature]):
    """The feature maps of a model, finest first, with timm's column accessors."""

    features: tuple[Feature, ...]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index):
        return self.features[index]

    def module_name(self) -> list[str]:
        """The native path of the module that returns each map."""
        return [feature.module for feature in self]

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [feature.channels for feature in self]

    def reduction(self) -> list[int]:
        """Input pixels per cell, along one axis, of each map."""
        return [feature.reduction for feature in self]

    def select(self, out_indices: Iterable[int] | None) -> tuple[int, ...]:
        """`out_indices` in ascending order, negative ones resolved; None selects all maps.

        Raises: ValueError for an index out of range.
        """
        count = len(self)
        indices = range(count) if out_indices is None else out_indices
        listed = list(indices) if isinstance(indices, Iterable) else []
        known = [i for i in listed if is_integer(i)]
        resolved = sorted({i + count if i < 0 else i for i in known})
        if not resolved or len(known) != len(listed) or resolved[0] < 0 or resolved[-1] >= count:
            raise ValueError(
                f"`out_indices` (={out_indices}) must name at least one of this model's {count} "
                f"feature maps by 0 to {count - 1}, or from the end by -{count} to -1"
            )
        return tuple(resolved)
