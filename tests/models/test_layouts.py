"""Checkpoints named as other libraries name them: RegNet, EfficientNet.

Each is a network of torchvision or timm, renamed by rules of the other library, in the order of its
`state_dict()`, and gives that network's results.
"""

import re
import warnings
from collections.abc import Mapping

import pytest
import timm
import torchvision
from torch import nn

import flaxblocks as fb
from flaxblocks.convert.keymap import layouts_of
from flaxblocks.create.build import abstract_model
from flaxblocks.models.registry import find_model
from tests.models.renaming import HEAD, Rule, State, check, lively, renamed


def regnet(kind: str) -> nn.Module:
    return lively(getattr(torchvision.models, f"regnet_{kind}_400mf")(num_classes=6))


def regnet_rules(stem: tuple[str, str], block: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for torchvision's names: of the stem's layers, of a block with {stage} and {k} from 0,
    of what is in it.
    """

    def inner(found: re.Match) -> str:
        place = block.format(stage=int(found[1]) - 1, k=found[2], s=found[1], b=int(found[2]) + 1)
        layer, _, name = found[3].rpartition(".")
        return f"{place}.{names[layer]}.{name}"

    return (
        (r"stem\.0\.", f"{stem[0]}."),
        (r"stem\.1\.", f"{stem[1]}."),
        (r"trunk_output\.block(\d)\.block\d-(\d+)\.(.*)", inner),
    )


TRANSFORMERS_LAYERS = {
    f"{layer}.{i}": f"{place}.{('convolution', 'normalization')[i]}"
    for layer, place in {"proj": "shortcut", "f.a": "layer.0", "f.b": "layer.1"}.items()
    for i in (0, 1)
}


@pytest.mark.parametrize("kind", ["x", "y"])
def test_regnet_of_transformers(kind):
    oracle = regnet(kind)
    last = {"x": 2, "y": 3}[kind]
    rules = regnet_rules(
        ("regnet.embedder.embedder.convolution", "regnet.embedder.embedder.normalization"),
        "regnet.encoder.stages.{stage}.layers.{k}",
        {
            **TRANSFORMERS_LAYERS,
            "f.se.fc1": "layer.2.attention.0",
            "f.se.fc2": "layer.2.attention.2",
            "f.c.0": f"layer.{last}.convolution",
            "f.c.1": f"layer.{last}.normalization",
        },
    )
    state = renamed(oracle.state_dict(), *rules, (r"fc\.", "classifier.1."))
    check(f"regnet_{kind}_400mf", "transformers", state, oracle)


@pytest.mark.parametrize("kind", ["x", "y"])
def test_regnet_of_pycls(kind):
    oracle = regnet(kind)
    rules = regnet_rules(
        ("stem.conv", "stem.bn"),
        "s{s}.b{b}",
        {
            "proj.0": "proj",
            "proj.1": "bn",
            "f.se.fc1": "f.se.f_ex.0",
            "f.se.fc2": "f.se.f_ex.2",
            **{f"f.{c}.{i}": f"f.{c}{('', '_bn')[i]}" for c in "abc" for i in (0, 1)},
        },
    )
    check(f"regnet_{kind}_400mf", "pycls", renamed(oracle.state_dict(), *rules, HEAD), oracle)


def test_regnet_of_mmpretrain():
    oracle = regnet("x")
    rules = regnet_rules(
        ("backbone.conv1", "backbone.bn1"),
        "backbone.layer{s}.{k}",
        {
            "proj.0": "downsample.0",
            "proj.1": "downsample.1",
            **{f"f.{c}.0": f"conv{k}" for k, c in enumerate("abc", start=1)},
            **{f"f.{c}.1": f"bn{k}" for k, c in enumerate("abc", start=1)},
        },
    )
    state = renamed(oracle.state_dict(), *rules, HEAD)
    ordered = {key: state[key] for key in sorted(state, key=lambda key: _shortcut_last(state, key))}
    check("regnet_x_400mf", "mmpretrain", ordered, oracle)
    assert "mmpretrain" not in layouts_of(abstract_model("regnet_y_400mf"))


def _shortcut_last(state: State, key: str) -> tuple[int, bool, int]:
    keys = list(state)
    found = re.match(r"backbone\.layer\d\.\d+\.", key)
    prefix = found[0] if found else key
    start = next(n for n, other in enumerate(keys) if other.startswith(prefix))
    return start, ".downsample." in key, keys.index(key)


def block_numbers(state: State) -> dict[str, str]:
    """timm's `blocks.2.1` -> the block's number in one list."""
    places = dict.fromkeys(re.findall(r"blocks\.\d+\.\d+", " ".join(state)))
    return {place: str(i) for i, place in enumerate(places)}


def efficientnet_rules(state: State, block: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for timm's names; the first block, which does not widen, has no `conv_pwl`."""
    numbers = block_numbers(state)

    def inner(found: re.Match) -> str:
        layer = str(found[2])
        if found[1].startswith("blocks.0."):
            layer = {
                "conv_dw": "conv_dw",
                "bn1": "bn2",
                "conv_pw": "conv_pwl",
                "bn2": "bn3",
            }.get(layer) or layer
        return f"{block}{numbers[found[1]]}.{names[layer]}.{found[3]}"

    return ((r"(blocks\.\d+\.\d+)\.(.*)\.(\w+)", inner),)


def test_efficientnet_of_lukemelas():
    oracle = lively(timm.create_model("tf_efficientnet_b0", num_classes=6))
    names = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    state = renamed(
        oracle.state_dict(),
        *efficientnet_rules(oracle.state_dict(), "_blocks.", names),
        (r"conv_stem\.", "_conv_stem."),
        (r"bn1\.", "_bn0."),
        (r"conv_head\.", "_conv_head."),
        (r"bn2\.", "_bn1."),
        (r"classifier\.", "_fc."),
    )
    assert "_blocks.0._depthwise_conv.weight" in state
    assert "_blocks.0._expand_conv.weight" not in state
    check("tf_efficientnet_b0", "lukemelas", state, oracle)
    assert "lukemelas" not in layouts_of(abstract_model("efficientnetv2_rw_t"))


def test_efficientnet_of_transformers():
    oracle = lively(timm.create_model("tf_efficientnet_b1", num_classes=6))
    names = {
        "conv_pw": "expansion.expand_conv",
        "bn1": "expansion.expand_bn",
        "conv_dw": "depthwise_conv.depthwise_conv",
        "bn2": "depthwise_conv.depthwise_norm",
        "se.conv_reduce": "squeeze_excite.reduce",
        "se.conv_expand": "squeeze_excite.expand",
        "conv_pwl": "projection.project_conv",
        "bn3": "projection.project_bn",
    }
    blocks = "efficientnet.encoder.blocks."
    state = renamed(
        oracle.state_dict(),
        *efficientnet_rules(oracle.state_dict(), blocks, names),
        (r"conv_stem\.", "efficientnet.embeddings.convolution."),
        (r"bn1\.", "efficientnet.embeddings.batchnorm."),
        (r"conv_head\.", "efficientnet.encoder.top_conv."),
        (r"bn2\.", "efficientnet.encoder.top_bn."),
        (r"classifier\.", "classifier."),
    )
    check("tf_efficientnet_b1", "transformers", state, oracle)


@pytest.mark.parametrize(("layout", "row"), [("lukemelas", "b0"), ("transformers", "b0")])
def test_tensorflows_weights_make_tensorflows_network(layout, row):
    """No state dict holds a padding or an epsilon, and both libraries have TensorFlow's only."""
    name = f"efficientnet_{row}"
    tensorflows = find_model(f"tf_{name}")
    assert find_model(name).in_layout[layout] == tensorflows.name
    arrays = fb.to_torch(fb.create_model(tensorflows.name, num_classes=2), layout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fb.create_model(name, weights=arrays)
        assert model.stem.conv.padding == "SAME"
        assert list(fb.to_torch(model)) == list(arrays)
    with pytest.warns(UserWarning, match=f"{layout}'s? tf_{name} has norm_eps=0.001"):
        fb.load_torch(fb.create_model("efficientnet_b0", num_classes=2), arrays)
