"""Models in stages: a stem, blocks that shrink and widen the image stage by stage, a head.

The families share the order of the steps, how blocks are counted by stage, and where the feature
maps are.
"""

from collections.abc import Iterator
from typing import NamedTuple

from flax import nnx

from flaxblocks.models.features import Feature, FeatureInfo
from flaxblocks.models.image_model import ImageModel

__all__ = ["PlacedBlock", "StagedModel", "Trunk"]


class PlacedBlock(NamedTuple):
    """A block and its place: native path, stage, and index in the stage, both counted from 0."""

    path: str
    stage: int
    index: int
    block: nnx.Module


class Trunk:
    """The blocks and feature maps of a model while it is being built.

    A feature map is the input of a step that shrinks the image, and the output of the last step.
    """

    def __init__(self, stem: str, features: int, reduction: int = 2):
        """Begin after the step `stem`, whose output has `features` channels."""
        self.blocks: list[nnx.Module] = []
        self.features = features
        self.reduction = reduction
        self._last = stem
        self._ends: list[Feature] = []

    def shrink(self, stride: int) -> None:
        """Note that the next step has a stride."""
        if stride > 1:
            self._ends.append(Feature(self._last, self.features, self.reduction))
            self.reduction *= stride

    def add(self, block: nnx.Module, features: int, stride: int = 1) -> None:
        """Append a block with `features` output channels."""
        self.shrink(stride)
        self.blocks.append(block)
        self.pass_by(f"blocks.{len(self.blocks) - 1}", features)

    def pass_by(self, step: str, features: int) -> None:
        """Note a step that is not a block: the current map is now its output."""
        self._last, self.features = step, features

    @property
    def feature_info(self) -> FeatureInfo:
        """The feature maps, including the output of the last step."""
        return FeatureInfo((*self._ends, Feature(self._last, self.features, self.reduction)))


class StagedModel(ImageModel):
    """A stem, blocks, and in some families a last convolution.

    A subclass sets `stem`, `blocks` and `depths`, the number of blocks in each stage; if it has
    them, also `pool`, after the stem, and `head_conv`, after the blocks.
    """

    stem: nnx.Module
    pool: nnx.Module | None = None
    blocks: nnx.List
    depths: tuple[int, ...]
    head_conv: nnx.Module | None = None

    def add_trunk(self, trunk: Trunk) -> None:
        """Set `blocks`, `feature_info` and `num_features` to those of a finished trunk."""
        self.blocks = nnx.List(trunk.blocks)
        self.feature_info = trunk.feature_info
        self.num_features = trunk.features

    @property
    def steps(self) -> Iterator[tuple[str, nnx.Module]]:
        """The stem, the pool, the blocks and the last convolution, by native path."""
        yield "stem", self.stem
        if self.pool is not None:
            yield "pool", self.pool
        for i, block in enumerate(self.blocks):
            yield f"blocks.{i}", block
        if self.head_conv is not None:
            yield "head_conv", self.head_conv

    @property
    def placed_blocks(self) -> Iterator[PlacedBlock]:
        """The blocks in order, each with its place. A model cut by `drop_after` has fewer than
        `depths` says.
        """
        places = [(stage, k) for stage, depth in enumerate(self.depths) for k in range(depth)]
        for i, (block, (stage, k)) in enumerate(zip(self.blocks, places, strict=False)):
            yield PlacedBlock(f"blocks.{i}", stage, k, block)
