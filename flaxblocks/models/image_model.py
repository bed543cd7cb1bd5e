"""What every image classifier here offers: timm's access to features, on top of one
`forward_intermediates`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float

from flaxblocks.nn.arguments import check_positive

__all__ = ["Feature", "FeatureExtractor", "FeatureInfo", "ImageModel"]


@dataclass(frozen=True)
class Feature:
    """A feature map: the module that gives it, its channels, and how many pixels one of its cells
    spans.
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

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [feature.channels for feature in self]

    def reduction(self) -> list[int]:
        """Input pixels per cell, along one axis, of each map."""
        return [feature.reduction for feature in self]

    def select(self, out_indices: Iterable[int] | None) -> tuple[int, ...]:
        """`out_indices` in ascending order, negative ones resolved; None is all.

        Raises: ValueError for an index out of range.
        """
        count = len(self)
        indices = range(count) if out_indices is None else out_indices
        resolved = sorted({i + count if i < 0 else i for i in indices})
        if not resolved or resolved[0] < 0 or resolved[-1] >= count:
            raise ValueError(
                f"`out_indices` (={out_indices}) must name at least one of this model's {count} "
                f"feature maps by 0 to {count - 1}, or from the end by -{count} to -1"
            )
        return tuple(resolved)


class ImageModel(nnx.Module):
    """Base of the classifiers: an image `(N, H, W, in_channels)` to logits `(N, num_classes)`.

    Subclasses set `num_classes`, `in_channels`, `num_features` and `feature_info`, and implement
    the four methods that raise here. `head` is the layer that `num_classes` decides, `stem` begins
    with the convolution that `in_channels` decides.
    """

    num_classes: int
    in_channels: int
    num_features: int
    feature_info: FeatureInfo

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        """Logits, or pooled features if the model was built with `num_classes=0`."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w F"]:
        """The last feature map, `(N, h, w, num_features)`, before pooling."""
        raise NotImplementedError

    def forward_head(self, x: Float[Array, "N h w F"], *, pre_logits: bool = False) -> jax.Array:
        """Pool a last feature map and classify it; `pre_logits` stops at `(N, num_features)`."""
        raise NotImplementedError

    def forward_intermediates(
        self, x: Float[Array, "N H W C"], out_indices: Iterable[int] | None = None
    ) -> list[jax.Array]:
        """The maps of `feature_info` at `out_indices` (all unless given), finest first; nothing
        after them runs.
        """
        raise NotImplementedError

    def drop_after(self, index: int) -> None:
        """Remove what runs after feature map `index`."""
        raise NotImplementedError


class FeatureExtractor(nnx.Module):
    """A model cut down to its feature maps: `(N, H, W, C)` to a list of `(N, h, w, channels)`,
    finest first.

    Its variables lie under `backbone`; `feature_info` describes the maps that it returns.
    """

    def __init__(self, model: ImageModel, out_indices: Iterable[int] | None = None):
        """Take over `model`, which loses its head and what else comes after the last map.

        Raises: ValueError for an index that the model has no map for.
        """
        indices = model.feature_info.select(out_indices)
        model.drop_after(indices[-1])
        self.backbone = model
        self.out_indices = indices
        self.feature_info = FeatureInfo(tuple(model.feature_info[i] for i in indices))

    def __call__(self, x: Float[Array, "N H W C"]) -> list[jax.Array]:
        """The feature maps of an image batch."""
        return self.backbone.forward_intermediates(x, self.out_indices)


def check_classes(num_classes: int, in_channels: int) -> None:
    """Raise ValueError unless `num_classes` is at least 0 and `in_channels` at least 1."""
    check_positive(in_channels=in_channels)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"`num_classes` (={num_classes}) must be 0 (pooled features) or more")
