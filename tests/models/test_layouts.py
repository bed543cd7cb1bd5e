"""Checkpoints named as other libraries name them: each is the library's own network, renamed from
that library's side, and gives its results.

The names are written out here as the libraries' modules are nested, or derived from torchvision's
and timm's by rules of the other library; the order is that of its `state_dict()`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import resnet as tv_resnet

import flaxblocks as fb
from flaxblocks.convert.keymap import layouts_of
from flaxblocks.create.build import abstract_model
from tests.support import images

BOUND = 1e-12  # of float64: a sum in another order
State = Mapping[str, torch.Tensor]
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


def lively(model: nn.Module) -> nn.Module:
    """In evaluation mode and float64, with norms that do something, and counts."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
            module.num_batches_tracked.fill_(7)
    return model.double().eval()


def renamed(state: State, *rules: tuple[str, Any]) -> dict[str, torch.Tensor]:
    """The first rule that a key begins with is applied to it."""
    names = {}
    for key, value in state.items():
        for pattern, new in rules:
            name, count = re.subn(f"^{pattern}", new, key)
            if count:
                names[name] = value
                break
        else:
            raise AssertionError(f"no rule for {key}")
    assert len(names) == len(state)
    return names


def first(state: State, word: str, block: str) -> dict[str, torch.Tensor]:
    """In each block, whose prefix matches `block`, the keys with `word` before the others."""
    placed = {}
    for i, key in enumerate(state):
        found = re.match(block, key)
        prefix = found[0] if found else key
        start = next(n for n, other in enumerate(state) if other.startswith(prefix))
        placed[key] = (start, bool(found) and word not in key, i)
    return {key: state[key] for key in sorted(placed, key=placed.__getitem__)}


def check(row: str, layout: str, state: State, oracle: nn.Module, size=(64, 64), **config: Any):
    """`state` loads as `layout` in whatever order, gives the oracle's results, and comes back key
    by key.
    """
    shuffled = dict(sorted(state.items()))
    x = images(3, size)
    with jax.enable_x64(True):
        model = fb.create_model(row, weights=shuffled, param_dtype=jnp.float64, **config)
        model.eval()
        ours = np.asarray(jax.jit(lambda x: model(x))(x))
        back = fb.to_torch(model, layout=layout)
        assert list(fb.to_torch(model)) == list(back), "it is the layout that was found"
    with torch.no_grad():
        theirs = oracle(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)


def resnet(kind: str = "bottleneck", **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """torchvision's ResNet of few blocks, and what ours is built with."""
    block = {"basic": tv_resnet.BasicBlock, "bottleneck": tv_resnet.Bottleneck}[kind]
    model = lively(torchvision.models.ResNet(block, [1, 2, 1, 1], num_classes=6, **options))
    return model, {"depths": (1, 2, 1, 1), "block": kind}


KINDS = pytest.mark.parametrize("kind", ["basic", "bottleneck"])
HEAD = (r"fc\.", "head.fc.")


@KINDS
def test_resnet_of_mmpretrain(kind):
    oracle, config = resnet(kind)
    state = renamed(oracle.state_dict(), HEAD, (r"", "backbone."))
    check("resnet50", "mmpretrain", state, oracle, **config)


def test_resnet_of_mmpretrain_with_a_deep_stem():
    """Its ResNetV1d: a pool stands in a shortcut only where there is a stride."""
    options: dict[str, Any] = {"layers": (1, 2, 1, 1), "stem_width": 32, "stem_type": "deep"}
    oracle = timm.models.ResNet(
        timm.models.resnet.Bottleneck, avg_down=True, num_classes=6, **options
    )
    lively(oracle)
    state = renamed(
        oracle.state_dict(),
        HEAD,
        (r"conv1\.", "backbone.stem."),
        (r"bn1\.", "backbone.stem.7."),
        (r"layer1\.0\.downsample\.1\.", "backbone.layer1.0.downsample.0."),
        (r"layer1\.0\.downsample\.2\.", "backbone.layer1.0.downsample.1."),
        (r"", "backbone."),
    )
    check("resnet50d", "mmpretrain", state, oracle, depths=(1, 2, 1, 1))


@KINDS
def test_resnet_of_detectron2(kind):
    """What its converter from torchvision writes."""
    oracle, config = resnet(kind)

    def inner(found: re.Match) -> str:
        rest = re.sub(r"bn([123])", r"conv\1.norm", found[2])
        rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        return f"res{int(found[1]) + 1}.{rest}"

    state = renamed(
        oracle.state_dict(),
        (r"layer(\d)\.(.*)", inner),
        (r"bn1\.", "stem.conv1.norm."),
        (r"", "stem."),
    )
    assert "res2.0.conv1.norm.running_mean" in state
    check("resnet50", "detectron2", state, oracle, **config)


@KINDS
@pytest.mark.parametrize("form", ["7x7", "3x3"])
def test_resnet_of_kuangliu(kind, form):
    oracle, config = resnet(kind)
    if form == "3x3":
        oracle.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False).double()
        oracle.maxpool = nn.Identity()
    downsample = r"(layer\d\.\d\.)downsample\."
    state = renamed(
        oracle.state_dict(), (r"fc\.", "linear."), (downsample, r"\1shortcut."), (r"", "")
    )
    check("resnet50", "kuangliu", state, oracle, size=(32, 32), stem=form, **config)


@pytest.mark.parametrize("size", [(32, 32), (17, 23)])
def test_a_3x3_stem_with_torchvisions_names(size):
    oracle, config = resnet("basic")
    oracle.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False).double()
    oracle.maxpool = nn.Identity()
    check("resnet18", "torchvision", oracle.state_dict(), oracle, size=size, stem="3x3", **config)
    info = abstract_model("resnet18", stem="3x3").feature_info
    assert info.reduction() == [1, 2, 4, 8]


@KINDS
def test_resnet_of_pycls(kind):
    oracle, config = resnet(kind)

    def inner(found: re.Match) -> str:
        block = f"s{found[1]}.b{int(found[2]) + 1}"
        rest = found[3]
        for old, new in (("downsample.0", "proj"), ("downsample.1", "bn")):
            if rest.startswith(old):
                return f"{block}.{rest.replace(old, new)}"
        letter = "abc"[int(re.sub(r"\D", "", rest[:5])) - 1]
        norm = "_bn" if rest.startswith("bn") else ""
        return f"{block}.f.{letter}{norm}.{rest.partition('.')[2]}"

    state = renamed(
        oracle.state_dict(),
        HEAD,
        (r"layer(\d)\.(\d+)\.(.*)", inner),
        (r"conv1\.", "stem.conv."),
        (r"bn1\.", "stem.bn."),
    )
    state = first(first(state, ".bn.", r"s\d\.b\d\."), ".proj.", r"s\d\.b\d\.")
    assert list(state)[6:8] == (
        ["s1.b1.f.a.weight", "s1.b1.f.a_bn.weight"]
        if kind == "basic"
        else ["s1.b1.proj.weight", "s1.b1.bn.weight"]
    )
    check("resnet50", "pycls", state, oracle, **config)


@KINDS
def test_resnet_of_transformers(kind):
    oracle, config = resnet(kind)

    def inner(found: re.Match) -> str:
        block = f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}"
        layer, _, name = found[3].rpartition(".")
        if layer.startswith("downsample"):
            place, is_norm = "shortcut", layer.endswith("1")
        else:
            place, is_norm = f"layer.{int(layer[-1]) - 1}", layer.startswith("bn")
        return f"{block}.{place}.{'normalization' if is_norm else 'convolution'}.{name}"

    state = renamed(
        oracle.state_dict(),
        (r"layer(\d)\.(\d+)\.(.*)", inner),
        (r"conv1\.", "resnet.embedder.embedder.convolution."),
        (r"bn1\.", "resnet.embedder.embedder.normalization."),
        (r"fc\.", "classifier.1."),
    )
    state = first(state, ".shortcut.", r"resnet\.encoder\.stages\.\d\.layers\.\d\.")
    check("resnet50", "transformers", state, oracle, **config)


@KINDS
def test_the_children_of_a_resnet(kind):
    oracle, config = resnet(kind)
    children = nn.Sequential(*list(oracle.children())[:-1])
    body = nn.Sequential(children, nn.Flatten())
    check("resnet50", "children", children.state_dict(), body, num_classes=0, **config)
    whole = nn.Sequential(*oracle.children())
    check("resnet50", "children", whole.state_dict(), oracle, num_classes=6, **config)


def test_the_body_of_fastais_learner():
    oracle, config = resnet("basic")
    body = nn.Sequential(nn.Sequential(*list(oracle.children())[:-2]))
    pooled = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    check("resnet18", "fastai", body.state_dict(), pooled, num_classes=0, **config)
    net = torchvision.models.mobilenet_v2(width_mult=0.25)
    body = nn.Sequential(nn.Sequential(*list(lively(net).children())[:-1]))
    pooled = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    check("mobilenet_v2", "fastai", body.state_dict(), pooled, num_classes=0, width_mult=0.25)


@pytest.mark.parametrize("depths", [(1, 2, 1, 1)])
@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_the_stride_in_the_first_1x1(depths, size):
    """As in Caffe: torchvision's network with the two strides exchanged."""
    oracle, config = resnet("bottleneck")
    for block in oracle.modules():
        if isinstance(block, tv_resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    check("resnet50", "torchvision", oracle.state_dict(), oracle, size, stride_in="1x1", **config)


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        ("resnet50", {"stride_in": "5x5"}, r"`stride_in` \(='5x5'\)"),
        ("resnet18", {"stride_in": "1x1"}, r"`stride_in` \(='1x1'\) must be '3x3' with basic"),
        ("resnetaa50", {"stride_in": "1x1"}, r"`antialias` \(='avg'\) exclude each other"),
        ("resnet50", {"stem": "3x3", "stem_pool": "conv"}, r"`stem_pool` \(='conv'\)"),
        ("resnet50", {"stem": "5x5"}, r"`stem` \(='5x5'\)"),
        ("mobilenet_v1", {"padding": "VALID"}, r"`padding` \(='VALID'\)"),
        ("mobilenet_v2", {"padding": 1}, r"`padding` \(=1\)"),
        ("mobilenet_v2", {"norm_eps": 0.0}, r"`norm_eps` \(=0.0\)"),
    ],
)
@pytest.mark.untyped
def test_settings_that_no_network_has_are_named(row, config, message):
    with pytest.raises(ValueError, match=message):
        fb.create_model(row, **config)


def regnet(kind: str) -> nn.Module:
    return lively(getattr(torchvision.models, f"regnet_{kind}_400mf")(num_classes=6))


def regnet_rules(stem: tuple[str, str], block: str, names: Mapping[str, str]) -> Rules:
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


def efficientnet_rules(state: State, block: str, names: Mapping[str, str]) -> Rules:
    """Rules for timm's names; the first block, which does not widen, has no `conv_pwl`."""
    numbers = block_numbers(state)

    def inner(found: re.Match) -> str:
        layer = found[2]
        if found[1].startswith("blocks.0."):
            layer = {
                "conv_dw": "conv_dw",
                "bn1": "bn2",
                "conv_pw": "conv_pwl",
                "bn2": "bn3",
            }.get(layer, layer)
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
