"""What the libraries call the layers of a RegNet."""

from collections.abc import Callable, Iterator
from typing import Any

from flaxblocks.blocks.conv_norm_act import layer_names, timm_names, transformers_names

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


def _transformers(model: Any) -> Pairs:
    """Hugging Face's `RegNetForImageClassification`; the gate is one of the numbered layers."""
    yield from transformers_names("stem", "regnet.embedder.embedder")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"regnet.encoder.stages.{stage}.layers.{k}"
        yield path, foreign
        yield from transformers_names(f"{path}.shortcut", f"{foreign}.shortcut")
        yield from transformers_names(f"{path}.reduce", f"{foreign}.layer.0")
        yield from transformers_names(f"{path}.conv", f"{foreign}.layer.1")
        yield f"{path}.squeeze_excite", f"{foreign}.layer.2", "output"
        yield f"{path}.squeeze_excite.reduce", f"{foreign}.layer.2.attention.0"
        yield f"{path}.squeeze_excite.expand", f"{foreign}.layer.2.attention.2"
        last = 2 if block.squeeze_excite is None else 3
        yield from transformers_names(f"{path}.expand", f"{foreign}.layer.{last}")
    yield "head", "classifier.1"


def _pycls(model: Any) -> Pairs:
    """The names of the library that RegNet comes from."""
    yield from layer_names("stem", "stem.conv", "stem.bn")
    for path, stage, k, _ in model.placed_blocks:
        foreign = f"s{stage + 1}.b{k + 1}"
        yield path, foreign
        yield from layer_names(f"{path}.shortcut", f"{foreign}.proj", f"{foreign}.bn")
        yield from layer_names(f"{path}.reduce", f"{foreign}.f.a", f"{foreign}.f.a_bn")
        yield from layer_names(f"{path}.conv", f"{foreign}.f.b", f"{foreign}.f.b_bn")
        yield f"{path}.squeeze_excite", f"{foreign}.f.se", "output"
        yield f"{path}.squeeze_excite.reduce", f"{foreign}.f.se.f_ex.0"
        yield f"{path}.squeeze_excite.expand", f"{foreign}.f.se.f_ex.2"
        yield from layer_names(f"{path}.expand", f"{foreign}.f.c", f"{foreign}.f.c_bn")
    yield "head", "head.fc"


def _mmpretrain(model: Any) -> Pairs:
    """A ResNet's names in `backbone` and `head`."""
    yield from layer_names("stem", "backbone.conv1", "backbone.bn1")
    for path, stage, k, _ in model.placed_blocks:
        foreign = f"backbone.layer{stage + 1}.{k}"
        yield path, foreign
        for i, name in enumerate(("reduce", "conv", "expand"), start=1):
            yield from layer_names(f"{path}.{name}", f"{foreign}.conv{i}", f"{foreign}.bn{i}")
        skip = f"{foreign}.downsample"
        yield f"{path}.shortcut", skip, "output"
        yield from layer_names(f"{path}.shortcut", f"{skip}.0", f"{skip}.1")
    yield "head", "head.fc"


def regnet_layouts(model: Any) -> dict[str, Callable[[Any], Pairs]]:
    """The layouts that can name each layer of `model`, by library; torchvision's first."""
    blocks = (block for block in model.blocks if block is not None)
    gated = any(block.squeeze_excite is not None for block in blocks)
    return {
        "torchvision": _torchvision,
        "timm": _timm,
        "transformers": _transformers,
        "pycls": _pycls,
        **({} if gated else {"mmpretrain": _mmpretrain}),
    }
