"""What the libraries call the layers of a MobileNetV2."""

from collections.abc import Callable, Iterator
from typing import Any

from flaxblocks.blocks.conv_norm_act import layer_names, transformers_names
from flaxblocks.blocks.inverted import MBConv
from flaxblocks.models.timm_names import head_conv_names, stage_names

__all__ = ["mobilenetv2_layouts"]

Pairs = Iterator[tuple[str, ...]]
LAYERS = ("expand", "conv", "project")


def _torchvision(model: Any) -> Pairs:
    yield from _sequential("stem", "features.0")
    for i, block in enumerate(model.blocks):
        native, foreign = f"blocks.{i}", f"features.{i + 1}"
        yield native, foreign
        if isinstance(block, MBConv):
            *wide, last = _present(block)
            for k, name in enumerate(wide):
                yield from _sequential(f"{native}.{name}", f"{foreign}.conv.{k}")
            k = len(wide)
            yield from layer_names(
                f"{native}.{last}", f"{foreign}.conv.{k}", f"{foreign}.conv.{k + 1}"
            )
    yield from _sequential("head_conv", f"features.{len(model.blocks) + 1}")
    yield "head", "classifier.1"


def _sequential(native: str, foreign: str) -> Pairs:
    """Convolution, norm and activation as a Sequential of three."""
    yield native, foreign, "output"
    yield from layer_names(native, f"{foreign}.0", f"{foreign}.1")


def _present(block: Any) -> list[str]:
    return [name for name in LAYERS if getattr(block, name) is not None]


def _timm(model: Any) -> Pairs:
    yield from stage_names(model)
    yield from head_conv_names(model)


def _children(model: Any) -> Pairs:
    """`nn.Sequential(*model.children())` of torchvision's, with or without the last of them."""
    for native, foreign, *kind in _torchvision(model):
        yield native, foreign.replace("features", "0").replace("classifier", "1"), *kind


def _fastai(model: Any) -> Pairs:
    """fastai's `Sequential(body, head)`; its own head, which is not linear, lies under `1`."""
    for native, foreign, *kind in _children(model):
        yield native, "1" if native == "head" else f"0.{foreign}", *kind


def _flat(model: Any) -> Pairs:
    """The stem, and blocks as one Sequential each, whose activations are numbered too."""
    yield from _sequential("stem", "features.0")
    for i, block in enumerate(model.blocks):
        native, foreign = f"blocks.{i}", f"features.{i + 1}"
        yield native, foreign
        for k, name in enumerate(_present(block)):
            conv, norm = (f"{foreign}.conv.{3 * k + place}" for place in (0, 1))
            yield from layer_names(f"{native}.{name}", conv, norm)


def _tonylins(model: Any) -> Pairs:
    """tonylins' pytorch-mobilenet-v2."""
    yield from _flat(model)
    yield from _sequential("head_conv", f"features.{len(model.blocks) + 1}")
    yield "head", "classifier"


def _d_li14(model: Any) -> Pairs:
    """d-li14's mobilenetv2.pytorch, which differs from tonylins' in the last convolution."""
    yield from _flat(model)
    yield from _sequential("head_conv", "conv")
    yield "head", "classifier"


def _mmpretrain(model: Any) -> Pairs:
    yield from _conv_module("stem", "backbone.conv1")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"backbone.layer{stage + 1}.{k}"
        yield path, foreign
        for i, name in enumerate(_present(block)):
            yield from _conv_module(f"{path}.{name}", f"{foreign}.conv.{i}")
    yield from _conv_module("head_conv", "backbone.conv2")
    yield "head", "head.fc"


def _conv_module(native: str, foreign: str) -> Pairs:
    """OpenMMLab's convolution with norm and activation."""
    yield native, foreign, "output"
    yield from layer_names(native, f"{foreign}.conv", f"{foreign}.bn")


def _transformers(model: Any) -> Pairs:
    """Hugging Face's `MobileNetV2ForImageClassification`, whose stem includes the first block."""
    yield from transformers_names("stem", "mobilenet_v2.conv_stem.first_conv")
    names = {"expand": "expand_1x1", "conv": "conv_3x3", "project": "reduce_1x1"}
    for i in range(len(model.blocks)):
        foreign = f"mobilenet_v2.layer.{i - 1}" if i else "mobilenet_v2.conv_stem"
        yield f"blocks.{i}", foreign, "output"
        for name, module in names.items():
            yield from transformers_names(f"blocks.{i}.{name}", f"{foreign}.{module}")
    yield from transformers_names("head_conv", "mobilenet_v2.conv_1x1")
    yield "head", "classifier"


def mobilenetv2_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that name every layer of `model`, by library; torchvision's first. Only
    torchvision's and timm's name blocks of another class.
    """
    names = {"torchvision": _torchvision, "timm": _timm}
    if not all(isinstance(b, MBConv) and b.squeeze_excite is None for b in model.blocks):
        return names
    names.update({"transformers": _transformers, "mmpretrain": _mmpretrain})
    names.update({"d-li14": _d_li14, "tonylins": _tonylins})
    return {**names, "children": _children, "fastai": _fastai}
