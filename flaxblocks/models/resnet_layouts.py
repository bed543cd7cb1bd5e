"""What the libraries call the layers of a ResNet."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from flaxblocks.blocks.conv_norm_act import ConvNormAct, layer_names
from flaxblocks.models.residual_layouts import convolutions, pycls_layout, transformers_layout

__all__ = ["mmpretrain_names", "resnet_layouts", "torchvision_names"]

Pairs = Iterator[tuple[str, ...]]

# torchvision's modules, which `Sequential(*model.children())` numbers.
CHILDREN = (
    *("conv1", "bn1", "relu", "maxpool"),
    *("layer1", "layer2", "layer3", "layer4", "avgpool", "fc"),
)


def torchvision_names(model: Any) -> Pairs:
    """torchvision's names, which timm uses too."""
    if _has_deep_stem(model):
        last = len(model.stem.layers) - 1
        for i in range(last + 1):
            yield f"stem.layers.{i}.conv", f"conv1.{3 * i}"
            yield f"stem.layers.{i}.norm", "bn1" if i == last else f"conv1.{3 * i + 1}"
    else:
        yield "stem.conv", "conv1"
        yield "stem.norm", "bn1"
    yield "pool", "maxpool", "output"
    if isinstance(model.pool, ConvNormAct):
        yield "pool.conv", "maxpool.0"
        yield "pool.norm", "maxpool.1"
    for path, stage, k, block in model.placed_blocks:
        first = 1 if block.pool_shortcut else 0  # timm puts an Identity where there is no stride
        yield from _block_names(path, f"layer{stage + 1}.{k}", block, first)
    yield "head", "fc"


def _block_names(native: str, foreign: str, block: Any, first: int) -> Pairs:
    """One block; `first` is the index of the convolution in its shortcut."""
    yield native, foreign
    for k, name in enumerate(convolutions(block), start=1):
        yield f"{native}.{name}.conv", f"{foreign}.conv{k}"
        yield f"{native}.{name}.norm", f"{foreign}.bn{k}"
    yield f"{native}.squeeze_excite", f"{foreign}.se", "output"
    yield f"{native}.squeeze_excite.reduce", f"{foreign}.se.fc1"
    yield f"{native}.squeeze_excite.expand", f"{foreign}.se.fc2"
    yield f"{native}.shortcut", f"{foreign}.downsample", "output"
    yield f"{native}.shortcut.conv", f"{foreign}.downsample.{first}"
    yield f"{native}.shortcut.norm", f"{foreign}.downsample.{first + 1}"


def _has_deep_stem(model: Any) -> bool:
    return hasattr(model.stem, "layers")


def _children(model: Any, without: str = "") -> Pairs:
    """`nn.Sequential(*model.children())`, with or without the last of them, or one `without`."""
    numbers = {child: str(i) for i, child in enumerate(c for c in CHILDREN if c != without)}
    for native, foreign, *kind in torchvision_names(model):
        first, *rest = foreign.split(".")
        if first != without:
            yield native, ".".join([numbers[first], *rest]), *kind


def _fastai(model: Any) -> Pairs:
    """fastai's `Sequential(body, head)`; its own head, which is not linear, lies under `1`."""
    for native, foreign, *kind in _children(model):
        yield native, "1" if native == "head" else f"0.{foreign}", *kind


def mmpretrain_names(model: Any) -> Pairs:
    """torchvision's names in `backbone` and `head`; but a deep stem is one Sequential, and a
    shortcut has a pool only if it has a stride.
    """
    if _has_deep_stem(model):
        for i in range(len(model.stem.layers)):
            conv, norm = f"backbone.stem.{3 * i}", f"backbone.stem.{3 * i + 1}"
            yield from layer_names(f"stem.layers.{i}", conv, norm)
    else:
        yield from layer_names("stem", "backbone.conv1", "backbone.bn1")
    yield "pool", "backbone.maxpool", "output"
    for path, stage, k, block in model.placed_blocks:
        first = 0 if block.shortcut_pool is None else 1
        yield from _block_names(path, f"backbone.layer{stage + 1}.{k}", block, first)
    yield "head", "head.fc"


def _kuangliu(model: Any) -> Pairs:
    """torchvision's names, except those of the shortcuts and the head."""
    for native, foreign, *kind in torchvision_names(model):
        renamed = "linear" if native == "head" else foreign.replace(".downsample", ".shortcut")
        yield native, renamed, *kind


def _detectron2(model: Any) -> Pairs:
    """Each norm is a submodule of its convolution. The head has the name that it gets from
    detectron2's converter of torchvision's weights.
    """
    yield from layer_names("stem", "stem.conv1", "stem.conv1.norm")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"res{stage + 2}.{k}"
        yield path, foreign
        for i, name in enumerate(convolutions(block), start=1):
            conv = f"{foreign}.conv{i}"
            yield from layer_names(f"{path}.{name}", conv, f"{conv}.norm")
        skip = f"{foreign}.shortcut"
        yield from layer_names(f"{path}.shortcut", skip, f"{skip}.norm")
    yield "head", "stem.fc"


# For small images the stem's pool is left out, or else an `nn.Identity` takes its number.
UNPOOLED = partial(_children, without="maxpool")
# Libraries that have the original ResNets only.
OF_PLAIN_ONES: Mapping[str, Callable[[Any], Pairs]] = {
    "transformers": partial(transformers_layout, root="resnet"),
    "detectron2": _detectron2,
    "kuangliu": _kuangliu,
    "pycls": pycls_layout,
}


def resnet_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that name every layer of `model`, by library; torchvision's first."""
    blocks = [block for block in model.blocks if block is not None]
    extras = [layer for block in blocks for layer in (block.squeeze_excite, block.antialias)]
    original = not isinstance(model.pool, ConvNormAct) and all(layer is None for layer in extras)
    plain = original and not (_has_deep_stem(model) or any(b.pool_shortcut for b in blocks))
    return {
        "torchvision": torchvision_names,
        "timm": torchvision_names,
        **({"mmpretrain": mmpretrain_names} if original else {}),
        **(OF_PLAIN_ONES if plain else {}),
        "children": _children,
        **({"unpooled-children": UNPOOLED} if model.pool is None else {}),
        "fastai": _fastai,
    }
