"""Models in stages: a stem, blocks that shrink and widen the image stage by stage, a head.

What the families share: the order of the steps, the count of blocks in stages, and where the
feature maps lie.
"""

from collections.abc import Iterator
from typing import NamedTuple

from flax import nnx

from flaxblocks.models.image_model import Feature, FeatureInfo, ImageModel

__all__ = ["PlacedBlock", "StagedModel", "Trunk"]


class PlacedBlock(NamedTuple):
    """A block and where it stands: native path, stage, index within the stage; both from 0."""

    path: str
    stage: int
    index: int
    block: nnx.Module


class Trunk:
    """The body of a model while it is being built.

    A feature map ends where the next step shrinks the image, and at the end.
    """

    def __init__(self, stem: str, features: int, reduction: int = 2):
        """Begin behind the step `stem`, which gives `features` channels."""
        self.blocks: list[nnx.Module] = []
        self.features = features
        self.reduction = reduction
        self._last = stem
        self._ends: list[Feature] = []

    def shrink(self, stride: int) -> None:
        """The next step takes every `stride`-th pixel."""
        if stride > 1:
            self._ends.append(Feature(self._last, self.features, self.reduction))
            self.reduction *= stride

    def add(self, block: nnx.Module, features: int, stride: int = 1) -> None:
        """Append a block that gives `features` channels."""
        self.shrink(stride)
        self.blocks.append(block)
        self.pass_by(f"blocks.{len(self.blocks) - 1}", features)

    def pass_by(self, step: str, features: int) -> None:
        """The map so far goes through a step that is no block, and comes out as its output."""
        self._last, self.features = step, features

    @property
    def feature_info(self) -> FeatureInfo:
        """The feature maps, the one that the trunk ends in included."""
        return FeatureInfo((*self._ends, Feature(self._last, self.features, self.reduction)))


class StagedModel(ImageModel):
    """A stem, blocks, and where a family has it a last convolution.

    A subclass sets `stem`, `blocks` and `depths`, the number of blocks in each stage; where it has
    them, also `pool` after the stem and `head_conv` after the blocks.
    """

    stem: nnx.Module
    pool: nnx.Module | None = None
    blocks: nnx.List
    depths: tuple[int, ...]
    head_conv: nnx.Module | None = None

    def add_trunk(self, trunk: Trunk) -> None:
        """Set `blocks`, `feature_info` and `num_features`, which are those of a finished trunk."""
        self.blocks = nnx.List(trunk.blocks)
        self.feature_info = trunk.feature_info
        self.num_features = trunk.features

    @property
    def steps(self) -> Iterator[tuple[str, nnx.Module]]:
        """The stem, its pool, the blocks, the last convolution."""
        yield "stem", self.stem
        if self.pool is not None:
            yield "pool", self.pool
        for i, block in enumerate(self.blocks):
            yield f"blocks.{i}", block
        if self.head_conv is not None:
            yield "head_conv", self.head_conv

    @property
    def placed_blocks(self) -> Iterator[PlacedBlock]:
        """The blocks in order, each with its place; fewer than `depths` says in a cut-down
        model.
        """
        places = [(stage, k) for stage, depth in enumerate(self.depths) for k in range(depth)]
        for i, (block, (stage, k)) in enumerate(zip(self.blocks, places, strict=False)):
            yield PlacedBlock(f"blocks.{i}", stage, k, block)
