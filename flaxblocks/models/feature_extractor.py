"""A model that returns its feature maps instead of logits."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
from flax import nnx
from jaxtyping import Array, Float

from flaxblocks.models.features import FeatureInfo
from flaxblocks.models.image_model import ImageModel

__all__ = ["FeatureExtractor"]


class FeatureExtractor(nnx.Module):
    """A model without what follows its feature maps: `(N, H, W, C)` to a list of `(N, h, w,
    channels)`, finest first.

    The model is its `backbone`; `feature_info` describes the maps that it returns.
    """

    def __init__(self, model: ImageModel, out_indices: Iterable[int] | None = None):
        """Take over `model`, which loses its head and whatever else follows the last map.

        Raises: ValueError for an index out of range.
        """
        indices = model.feature_info.select(out_indices)
        model.drop_after(indices[-1])
        self.backbone = model
        self.out_indices = indices
        self.feature_info = FeatureInfo(tuple(model.feature_info[i] for i in indices))

    @property
    def layouts(self) -> Mapping[str, Callable[["FeatureExtractor"], Iterator[tuple[str, ...]]]]:
        """Those of the backbone: PyTorch's names do not contain the extractor."""

        def through(keys):
            return lambda extractor: (
                (f"backbone.{native}", *rest) for native, *rest in keys(extractor.backbone)
            )

        return {name: through(keys) for name, keys in self.backbone.layouts.items()}

    def __call__(self, x: Float[Array, "N H W C"]) -> list[jax.Array]:
        """The feature maps of an image batch."""
        return self.backbone._maps(x, self.out_indices)
