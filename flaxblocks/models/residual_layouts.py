"""Layouts of libraries in which a ResNet and a RegNet are one network with other blocks."""

from collections.abc import Iterator
from typing import Any

from flaxblocks.blocks.basic import BasicBlock
from flaxblocks.blocks.conv_norm_act import layer_names, transformers_names

__all__ = ["convolutions", "pycls_layout", "transformers_layout"]

Pairs = Iterator[tuple[str, ...]]


def convolutions(block: Any) -> tuple[str, ...]:
    """The names of a block's convolutions, in order."""
    return ("conv1", "conv2") if isinstance(block, BasicBlock) else ("reduce", "conv", "expand")


def _branch(block: Any) -> list[str]:
    """What lies on a block's residual branch: its convolutions, a gate before the last of them."""
    *first, last = convolutions(block)
    gate = [] if block.squeeze_excite is None else ["squeeze_excite"]
    return [*first, *gate, last]


def _gate_names(native: str, foreign: str, reduce: str, expand: str) -> Pairs:
    yield native, foreign, "output"
    yield f"{native}.reduce", f"{foreign}.{reduce}"
    yield f"{native}.expand", f"{foreign}.{expand}"


def pycls_layout(model: Any) -> Pairs:
    """Convolutions by letters, the shortcut first. RegNet comes from this library."""
    yield from layer_names("stem", "stem.conv", "stem.bn")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"s{stage + 1}.b{k + 1}"
        yield path, foreign
        yield from layer_names(f"{path}.shortcut", f"{foreign}.proj", f"{foreign}.bn")
        letters = iter("abc")
        for name in _branch(block):
            if name == "squeeze_excite":
                yield from _gate_names(f"{path}.{name}", f"{foreign}.f.se", "f_ex.0", "f_ex.2")
            else:
                inner = f"{foreign}.f.{next(letters)}"
                yield from layer_names(f"{path}.{name}", inner, f"{inner}_bn")
    yield "head", "head.fc"


def transformers_layout(model: Any, root: str) -> Pairs:
    """Hugging Face's `...ForImageClassification`, whose body is called `root`: the layers of a
    branch are numbered, a gate among them.
    """
    yield from transformers_names("stem", f"{root}.embedder.embedder")
    for path, stage, k, block in model.placed_blocks:
        foreign = f"{root}.encoder.stages.{stage}.layers.{k}"
        yield path, foreign
        yield from transformers_names(f"{path}.shortcut", f"{foreign}.shortcut")
        for i, name in enumerate(_branch(block)):
            native, layer = f"{path}.{name}", f"{foreign}.layer.{i}"
            if name == "squeeze_excite":
                yield from _gate_names(native, layer, "attention.0", "attention.2")
            else:
                yield from transformers_names(native, layer)
    yield "head", "classifier.1"
