"""Checkpoints named as other libraries name them: ResNet.

Each is a network of torchvision or timm, renamed by rules of the other library, in the order of its
`state_dict()`, and gives that network's results.
"""

import re
from typing import Any

import pytest
import timm
import torchvision
from torch import nn
from torchvision.models import resnet as tv_resnet

import flaxblocks as fb
from flaxblocks.create.build import abstract_model
from tests.models.renaming import HEAD, check, first, lively, renamed


def resnet(kind: str = "bottleneck", **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """torchvision's ResNet of few blocks, and what ours is built with."""
    block = getattr(tv_resnet, {"basic": "BasicBlock", "bottleneck": "Bottleneck"}[kind])
    model = lively(torchvision.models.ResNet(block, [1, 2, 1, 1], num_classes=6, **options))
    return model, {"depths": (1, 2, 1, 1), "block": kind}


KINDS = pytest.mark.parametrize("kind", ["basic", "bottleneck"])


@KINDS
def test_resnet_of_mmpretrain(kind):
    oracle, config = resnet(kind)
    state = renamed(oracle.state_dict(), HEAD, (r"", "backbone."))
    check("resnet50", "mmpretrain", state, oracle, **config)


def test_resnet_of_mmpretrain_with_a_deep_stem():
    """Its ResNetV1d: a pool stands in a shortcut only where there is a stride."""
    options: Any = {"layers": (1, 2, 1, 1), "stem_width": 32, "stem_type": "deep"}
    block: Any = timm.models.resnet.Bottleneck
    oracle = timm.models.ResNet(block, avg_down=True, num_classes=6, **options)
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


@KINDS
@pytest.mark.parametrize("pool", ["identity", "none"])
def test_the_children_of_a_resnet_for_small_images(kind, pool):
    """As in implementations of SimCLR, which leave the pool out or put an identity in its place."""
    oracle, config = resnet(kind)
    oracle.conv1, oracle.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    children = [child for name, child in oracle.named_children() if name != "fc"]
    if pool == "none":
        children.remove(oracle.maxpool)
    layout = "unpooled-children" if pool == "none" else "children"
    body = lively(nn.Sequential(*children, nn.Flatten()))
    state, options = body.state_dict(), {"num_classes": 0, "stem": "3x3", **config}
    check("resnet50", layout, state, body, size=(16, 16), **options)
    with pytest.raises(fb.ConversionError, match="built with stem='3x3' would fit"):
        fb.create_model("resnet50", weights=state, num_classes=0, **config)


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
