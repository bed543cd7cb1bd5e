"""What the libraries call the layers of an EfficientNet."""

from collections.abc import Callable, Iterator
from typing import Any

from flaxblocks.blocks.conv_norm_act import layer_names
from flaxblocks.blocks.inverted import MBConv
from flaxblocks.models.timm_names import head_conv_names, stage_names

__all__ = ["efficientnet_layouts"]

Pairs = Iterator[tuple[str, ...]]

LAYERS = ("expand", "conv", "squeeze_excite", "project")


def _torchvision(model: Any) -> Pairs:
    yield "stem", "features.0"
    for path, stage, k, block in model.placed_blocks:
        foreign = f"features.{stage + 1}.{k}"
        yield path, foreign
        layers = [name for name in LAYERS if getattr(block, name) is not None]
        for i, name in enumerate(layers):
            yield f"{path}.{name}", f"{foreign}.block.{i}"
    yield "head_conv", f"features.{len(model.depths) + 1}"
    yield "head", "classifier.1"


def _timm(model: Any) -> Pairs:
    yield from stage_names(model)
    yield from head_conv_names(model)


def _lukemelas(model: Any) -> Pairs:
    """lukemelas' EfficientNet-PyTorch: all blocks in one list, underscores before the names."""
    yield from layer_names("stem", "_conv_stem", "_bn0")
    for i in range(len(model.blocks)):
        path, foreign = f"blocks.{i}", f"_blocks.{i}"
        yield path, foreign
        yield from layer_names(f"{path}.expand", f"{foreign}._expand_conv", f"{foreign}._bn0")
        yield from layer_names(f"{path}.conv", f"{foreign}._depthwise_conv", f"{foreign}._bn1")
        yield f"{path}.squeeze_excite.reduce", f"{foreign}._se_reduce"
        yield f"{path}.squeeze_excite.expand", f"{foreign}._se_expand"
        yield from layer_names(f"{path}.project", f"{foreign}._project_conv", f"{foreign}._bn2")
    yield from layer_names("head_conv", "_conv_head", "_bn1")
    yield "head", "_fc"


# The modules of a block in Hugging Face's library: module, convolution, norm.
TRANSFORMERS = {
    "expand": ("expansion", "expand_conv", "expand_bn"),
    "conv": ("depthwise_conv", "depthwise_conv", "depthwise_norm"),
    "project": ("projection", "project_conv", "project_bn"),
}


def _transformers(model: Any) -> Pairs:
    """Hugging Face's `EfficientNetForImageClassification`."""
    stem = "efficientnet.embeddings"
    yield "stem", stem, "output"
    yield from layer_names("stem", f"{stem}.convolution", f"{stem}.batchnorm")
    for i in range(len(model.blocks)):
        path, foreign = f"blocks.{i}", f"efficientnet.encoder.blocks.{i}"
        yield path, foreign
        for name, (module, conv, norm) in TRANSFORMERS.items():
            if name == "project":
                gate = f"{foreign}.squeeze_excite"
                yield f"{path}.squeeze_excite", gate, "output"
                yield f"{path}.squeeze_excite.reduce", f"{gate}.reduce"
                yield f"{path}.squeeze_excite.expand", f"{gate}.expand"
            inner = f"{foreign}.{module}"
            yield from layer_names(f"{path}.{name}", f"{inner}.{conv}", f"{inner}.{norm}")
    end = "efficientnet.encoder"
    yield from layer_names("head_conv", f"{end}.top_conv", f"{end}.top_bn")
    yield "head", "classifier"


def efficientnet_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that name every layer of `model`, by library; torchvision's first."""
    blocks = [block for block in model.blocks if block is not None]
    first = all(isinstance(block, MBConv) for block in blocks)  # the first version of the network
    return {
        "torchvision": _torchvision,
        "timm": _timm,
        **({"lukemelas": _lukemelas, "transformers": _transformers} if first else {}),
    }
