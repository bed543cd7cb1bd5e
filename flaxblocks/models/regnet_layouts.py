"""What the libraries call the layers of a RegNet."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flaxblocks.blocks.conv_norm_act import timm_names
from flaxblocks.models.residual_layouts import pycls_layout, transformers_layout
from flaxblocks.models.resnet_layouts import mmpretrain_names

__all__ = ["regnet_layouts"]

Pairs = Iterator[tuple[str, ...]]


def _torchvision(model: Any) -> Pairs:
    yield "stem", "stem"
    for path, stage, k, _ in model.placed_blocks:
        foreign = f"trunk_output.block{stage + 1}.block{stage + 1}-{k}"
        yield path, foreign
        yield f"{path}.shortcut", f"{foreign}.proj"
        yield f"{path}.reduce", f"{foreign}.f.a"
        yield f"{path}.conv", f"{foreign}.f.b"
        yield f"{path}.squeeze_excite", f"{foreign}.f.se"
        yield f"{path}.expand", f"{foreign}.f.c"
    yield "head", "fc"


def _timm(model: Any) -> Pairs:
    yield from timm_names("stem", "stem")
    for path, stage, k, _ in model.placed_blocks:
        foreign = f"s{stage + 1}.b{k + 1}"
        yield path, foreign
        yield from timm_names(f"{path}.reduce", f"{foreign}.conv1")
        yield from timm_names(f"{path}.conv", f"{foreign}.conv2")
        yield f"{path}.squeeze_excite", f"{foreign}.se", "output"
        yield f"{path}.squeeze_excite.reduce", f"{foreign}.se.fc1"
        yield f"{path}.squeeze_excite.expand", f"{foreign}.se.fc2"
        yield from timm_names(f"{path}.expand", f"{foreign}.conv3")
        yield from timm_names(f"{path}.shortcut", f"{foreign}.downsample")
    yield "head", "head.fc"


def regnet_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that name every layer of `model`, by library; torchvision's first."""
    blocks = (block for block in model.blocks if block is not None)
    gated = any(block.squeeze_excite is not None for block in blocks)
    return {
        "torchvision": _torchvision,
        "timm": _timm,
        "transformers": partial(transformers_layout, root="regnet"),
        "pycls": pycls_layout,
        **({} if gated else {"mmpretrain": mmpretrain_names}),
    }
