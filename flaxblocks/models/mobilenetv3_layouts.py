"""The names that libraries give the layers of a MobileNetV3."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from flaxblocks.blocks.conv_norm_act import conv_names, layer_names
from flaxblocks.models.timm_names import stage_names

__all__ = ["mobilenetv3_layouts"]

Pairs = Iterator[tuple[str, ...]]


def _torchvision(model: Any) -> Pairs:
    yield "stem", "features.0"
    for i, block in enumerate(model.blocks):
        yield f"blocks.{i}", f"features.{i + 1}"
        layers = ("expand", "conv", "squeeze_excite", "project")
        present = [name for name in layers if getattr(block, name) is not None]
        for k, name in enumerate(present):
            yield f"blocks.{i}.{name}", f"features.{i + 1}.block.{k}"
    for k, path in enumerate(model.head_conv_paths(), start=len(model.blocks) + 1):
        yield path, f"features.{k}"
    yield "embedding", "classifier.0"
    yield "head", "classifier.3"


def _timm(model: Any) -> Pairs:
    """The last convolution is one more stage, and the layer after pooling is a 1x1 convolution."""
    yield from stage_names(model)
    for k, path in enumerate(model.head_conv_paths()):
        foreign = f"blocks.{len(model.depths)}.{k}"
        yield from conv_names(path, f"{foreign}.conv", f"{foreign}.bn1")
    yield "embedding", "conv_head", "conv1x1"
    yield "head", "classifier"


def _d_li14(model: Any) -> Pairs:
    """d-li14's mobilenetv3.pytorch: blocks are one Sequential each, in which activations, gates and
    the placeholder of a missing gate are numbered too.
    """
    yield from layer_names("stem", "features.0.0", "features.0.1")
    for i, block in enumerate(model.blocks):
        native, foreign = f"blocks.{i}", f"features.{i + 1}"
        yield native, foreign
        at = {"conv": 0, "squeeze_excite": 3, "project": 4}
        if block.expand is not None:
            at = {"expand": 0, "conv": 3, "squeeze_excite": 5, "project": 7}
        for name, k in at.items():
            if name == "squeeze_excite":
                yield f"{native}.{name}", f"{foreign}.conv.{k}", "output"
                yield f"{native}.{name}.reduce", f"{foreign}.conv.{k}.fc.0", "linear"
                yield f"{native}.{name}.expand", f"{foreign}.conv.{k}.fc.2", "linear"
            else:
                conv, norm = (f"{foreign}.conv.{k + place}" for place in (0, 1))
                yield from layer_names(f"{native}.{name}", conv, norm)
    yield from layer_names("head_conv", "conv.0", "conv.1")
    yield "embedding", "classifier.0"
    yield "head", "classifier.3"


def mobilenetv3_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that name every layer of `model`, by library; torchvision's first."""
    names = {"torchvision": _torchvision, "timm": _timm}
    one = not isinstance(model.head_conv, nnx.Sequential)
    return {**names, "d-li14": _d_li14} if model.gates_first and one else names
