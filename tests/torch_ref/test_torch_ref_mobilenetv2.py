"""The twin of MobileNetV2 against torchvision's, bit for bit, and the published counts."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flaxblocks.parity.oracle import import_torchvision
from tests.support import read_facts
from torch_ref.blocks import make_divisible
from torch_ref.models.mobilenetv2 import InvertedResidual, MobileNetV2

FACTS = read_facts("mobilenetv2")
WIDTHS = [0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0]


def torchvision_model(**arguments: Any) -> nn.Module:
    import_torchvision()
    from torchvision.models.mobilenetv2 import MobileNetV2 as TorchvisionMobileNetV2

    return TorchvisionMobileNetV2(**arguments)


def scramble(model: nn.Module) -> None:
    """Move every batch norm away from the defaults, which hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Eval logits, training-mode logits, every gradient and every buffer after the step."""
    with torch.no_grad():
        logits = model.eval()(x)
    torch.manual_seed(2)  # the dropout mask
    trained = model.train()(x)
    trained.square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [logits, trained.detach(), *(g for g in gradients if g is not None), *model.buffers()]


def assert_same(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...] = (2, 3, 64, 96)
) -> None:
    """The same entries in the same order, and bit-equal results from one state."""
    scramble(theirs)
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for a, b in zip(run(ours, x), run(theirs, x), strict=True):
        assert torch.equal(a, b)  # the same operations in the same order: no rounding to allow for


@pytest.mark.parametrize("width", WIDTHS)
def test_bit_equal_to_torchvision(width: float) -> None:
    assert_same(MobileNetV2(width_mult=width), torchvision_model(width_mult=width))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10, "dropout": 0.5},
        {"round_nearest": 1, "width_mult": 0.35},
        {"inverted_residual_setting": [[1, 16, 1, 1], [3, 24, 2, 2]]},
        {"norm_layer": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)},
        {"norm_layer": partial(nn.GroupNorm, 8)},
    ],
)
def test_arguments_work_as_torchvisions(arguments: dict[str, Any]) -> None:
    arguments = {"width_mult": 0.25} | arguments
    assert_same(MobileNetV2(**arguments), torchvision_model(**arguments))


def test_block_argument_works_as_torchvisions() -> None:
    class Plain(nn.Sequential):
        def __init__(
            self, inp: int, oup: int, stride: int, expand_ratio: int, norm_layer: Any
        ) -> None:
            super().__init__(nn.Conv2d(inp, oup, 3, stride, 1), norm_layer(oup), nn.ReLU6())

    arguments = {"width_mult": 0.25, "block": Plain}
    assert_same(MobileNetV2(**arguments), torchvision_model(**arguments))


def test_one_seed_gives_torchvisions_initial_weights() -> None:
    torch.manual_seed(0)
    ours = MobileNetV2(width_mult=0.5, norm_layer=partial(nn.GroupNorm, 8)).state_dict()
    torch.manual_seed(0)
    theirs = torchvision_model(width_mult=0.5, norm_layer=partial(nn.GroupNorm, 8)).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds of the convolutions and the linear layer for one 224 x 224 image."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return total


@pytest.mark.parametrize("width", WIDTHS)
def test_published_numbers(width: float) -> None:
    facts = FACTS[f"MobileNetV2 w{width}"]
    with torch.device("meta"):
        model = MobileNetV2(width_mult=width)
    blocks = [module for module in model.features if isinstance(module, InvertedResidual)]
    assert sum(p.numel() for p in model.parameters()) == facts["params"]
    assert sum(b.numel() for b in model.buffers()) == facts["buffers"]
    assert len(model.state_dict()) == facts["n_state"]
    assert len(model.features) == facts["n_features"]
    assert model.last_channel == facts["last_channel"]
    assert model.get_submodule("features.0.0").out_channels == facts["stem"]
    assert [block.conv[-1].num_features for block in blocks] == facts["block_out"]
    assert [block.residual for block in blocks] == facts["res"]
    # The published number counts every parameter of a norm and every bias once on top.
    extra = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert multiply_adds(model) + extra == facts["mult_adds"]
    assert list(model(torch.empty(2, 3, 64, 64, device="meta")).shape) == facts["out"]


def test_keys_order_and_shapes() -> None:
    state = MobileNetV2().state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(
        FACTS["MobileNetV2 w1.0"]["state"].items()
    )


def test_other_published_counts() -> None:
    quirks = FACTS["_quirks"]
    with torch.device("meta"):
        cases: tuple[tuple[dict[str, Any], int], ...] = (
            ({"round_nearest": 1, "width_mult": 0.75}, quirks["round_nearest=1 w=0.75 params"]),
            ({"round_nearest": 1, "width_mult": 1.4}, quirks["round_nearest=1 w=1.4 params"]),
            ({"num_classes": 10}, quirks["num_classes=10"]),
        )
        for arguments, count in cases:
            assert sum(p.numel() for p in MobileNetV2(**arguments).parameters()) == count
        hidden = InvertedResidual(17, 8, 1, 1.5).get_submodule("conv.0.0").out_channels
    assert hidden == quirks["expand float 1.5 hidden"]


def test_in_channels_reach_the_stem_alone() -> None:
    with torch.device("meta"):
        model = MobileNetV2(in_channels=1)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == FACTS["MobileNetV2 w1.0"]["state"] | {"features.0.0.weight": [32, 1, 3, 3]}


@pytest.mark.parametrize("case", FACTS["_quirks"]["make_divisible"].items())
def test_make_divisible(case: tuple[str, int]) -> None:
    value, divisor = case[0].split(",")
    assert make_divisible(float(value), int(divisor)) == case[1]


def test_make_divisible_keeps_the_minimum() -> None:
    assert make_divisible(3, 4) == 4
    assert make_divisible(20, 8, min_value=32) == 32
    assert make_divisible(20, 8, min_value=16) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` \(=0\)"),
        ({"in_channels": 0}, r"`in_channels` \(=0\)"),
        ({"round_nearest": 0}, r"`round_nearest` \(=0\)"),
        ({"width_mult": 0.0}, r"`width_mult` \(=0.0\) must be above 0"),
        (
            {"inverted_residual_setting": []},
            r"`inverted_residual_setting` \(=\[\]\) must have at least one row",
        ),
        (
            {"inverted_residual_setting": [[1, 16, 1, 1], [1, 16, 1]]},
            r"`inverted_residual_setting\[1\]` \(=\[1, 16, 1\]\) must have 4 numbers",
        ),
        (
            {"inverted_residual_setting": [[1, 16, 1, 1], [1, 16, 1, 3]]},
            r"setting\[1\]` \(=\[1, 16, 1, 3\]\) must be positive, with a stride of 1 or 2",
        ),
        (
            {"inverted_residual_setting": [[1, 16, 0, 1]]},
            r"`inverted_residual_setting\[0\]` \(=\[1, 16, 0, 1\]\) must be positive",
        ),
    ],
)
def test_errors_name_argument_value_and_rule(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MobileNetV2(**arguments)


def test_block_refuses_other_strides() -> None:
    with pytest.raises(ValueError, match=r"`stride` \(=3\) must be 1 or 2"):
        InvertedResidual(8, 8, 3, 6)
