"""The names that timm's EfficientNet builder gives the layers of MobileNet V1 to V3, MnasNet and
EfficientNet.
"""

from collections.abc import Iterator

from flax import nnx

from flaxblocks.blocks.conv_norm_act import conv_names
from flaxblocks.blocks.inverted import InvertedResidual
from flaxblocks.models.staged import StagedModel

__all__ = ["head_conv_names", "inverted_names", "stage_names"]

# The convolutions of a block in timm, by its kind.
CONVOLUTIONS = {
    "inverted residual": ("conv_pw", "conv_dw", "conv_pwl"),
    "depthwise separable": ("conv_dw", "conv_pw"),
    "fused": ("conv_exp", "conv_pwl"),
    "convolution": ("conv",),
}


def inverted_names(native: str, foreign: str, block: InvertedResidual) -> Iterator[tuple[str, ...]]:
    """The layers of one inverted residual block, fused or not."""
    layers = [n for n in ("expand", "conv", "project") if getattr(block, n) is not None]
    kind = {
        ("expand", "conv", "project"): "inverted residual",
        ("conv", "project"): "fused" if block.conv.conv.groups == 1 else "depthwise separable",
        ("conv",): "convolution",
    }[tuple(layers)]
    yield native, foreign
    names = zip(layers, CONVOLUTIONS[kind], strict=True)
    for k, (name, conv) in enumerate(names, start=1):
        if name == "project":
            yield f"{native}.squeeze_excite", f"{foreign}.se", "output"
            yield f"{native}.squeeze_excite.reduce", f"{foreign}.se.conv_reduce"
            yield f"{native}.squeeze_excite.expand", f"{foreign}.se.conv_expand"
        yield from conv_names(f"{native}.{name}", f"{foreign}.{conv}", f"{foreign}.bn{k}")


def stage_names(model: StagedModel) -> Iterator[tuple[str, ...]]:
    """The stem and the blocks of a model; of a block of another class only the block itself."""
    yield from conv_names("stem", "conv_stem", "bn1")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"blocks.{stage}.{k}"
        if isinstance(block, InvertedResidual):
            yield from inverted_names(path, foreign, block)
        else:
            yield path, foreign


def head_conv_names(model: nnx.Module) -> Iterator[tuple[str, ...]]:
    """The last convolution and the head."""
    yield from conv_names("head_conv", "conv_head", "bn2")
    yield "head", "classifier"
