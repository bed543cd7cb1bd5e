"""The twins of ReXNet against the official release's keys and counts, and against timm's model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import import_torchvision
from tests.support import read_facts
from torch_ref.models.rexnet import Gate, RexBottleneck, ReXNet, ReXNetLite, SiLU, SiLUFunction

FACTS = read_facts("rexnet")
WIDTHS = {
    name: (ReXNetLite if "lite" in name else ReXNet, float(name.rsplit("x", 1)[1]))
    for name in FACTS
    if name.startswith("ReXNetV1") and " x" in name
}
ARGUMENTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ReXNetV1 use_se=False": (ReXNet, {"use_se": False}),
    "ReXNetV1 classes=10": (ReXNet, {"num_classes": 10}),
    "ReXNetV1 se_ratio=4": (ReXNet, {"se_ratio": 4}),
    "ReXNetV1 width 0.5": (ReXNet, {"width_mult": 0.5}),
    "ReXNetV1 width 0.75": (ReXNet, {"width_mult": 0.75}),
    "ReXNetV1 final_ch=164": (ReXNet, {"final_features": 164}),
    "ReXNetV1 input_ch=27": (ReXNet, {"input_features": 27}),
    "lite fix_head_stem x2": (ReXNetLite, {"fix_head_stem": True, "width_mult": 2.0}),
    "lite fix_head_stem x1.3": (ReXNetLite, {"fix_head_stem": True, "width_mult": 1.3}),
    "lite x0.5": (ReXNetLite, {"width_mult": 0.5}),
    "lite kernel 353535": (ReXNetLite, {"kernel_sizes": (3, 5, 3, 5, 3, 5)}),
    "lite divisible 1": (ReXNetLite, {"round_nearest": 1}),
}


def on_meta(kind: type[nn.Module], **arguments: Any) -> Any:
    with torch.device("meta"):
        return kind(**arguments)


def count(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def blocks_of(model: Any) -> list[RexBottleneck]:
    return [module for module in model.features if isinstance(module, RexBottleneck)]


def gate_width(block: RexBottleneck) -> int:
    squeezed = [m.fc.get_submodule("0") for m in block.out if isinstance(m, Gate)]
    return squeezed[0].get_parameter("bias").numel() if squeezed else 0


def multiply_adds(model: nn.Module) -> int:
    """Of one 224 x 224 image, a bias or a parameter of a norm counting as one."""
    total = count(p for p in model.parameters() if p.dim() == 1)

    def add(module: Any, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return total


@pytest.mark.parametrize("name", WIDTHS)
def test_published_numbers(name: str) -> None:
    facts = FACTS[name]
    kind, width = WIDTHS[name]
    model = on_meta(kind, width_mult=width)
    assert count(model.parameters()) == facts["params"]
    assert count(model.buffers()) == facts["buffers"]
    assert len(model.state_dict()) == facts["n_state"]
    assert multiply_adds(model) == facts["mult_adds_b1"]
    assert model.features[0].out_channels == facts["stem"]
    blocks = blocks_of(model)
    assert [block.out[0].in_channels for block in blocks] == facts["in_ch"]
    assert [block.out[-1].num_features for block in blocks] == facts["out_ch"]
    assert [block.shared > 0 for block in blocks] == facts["shortcut"]
    assert model.features[len(blocks) + 3].out_channels == facts["pen"]
    if "se_hidden" in facts:
        assert [gate_width(block) for block in blocks] == facts["se_hidden"]
    assert list(model(torch.empty(2, 3, 64, 64, device="meta")).shape) == facts["out"]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_published_numbers_of_other_arguments(name: str) -> None:
    kind, arguments = ARGUMENTS[name]
    model = on_meta(kind, **arguments)
    assert count(model.parameters()) == FACTS[name]["params"]
    widths = [block.out[-1].num_features for block in blocks_of(model)]
    assert widths == FACTS[name].get("out_ch", widths)


@pytest.mark.parametrize(("name", "kind"), [("V1 x1.0", ReXNet), ("V1_lite x1.0", ReXNetLite)])
def test_keys_order_and_shapes(name: str, kind: type[nn.Module]) -> None:
    state = on_meta(kind).state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(
        FACTS[f"ReXNet{name}"]["state"].items()
    )


def timm_model(**arguments: Any) -> nn.Module:
    import_torchvision()
    from timm.models.rexnet import RexNet

    return RexNet(**arguments)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"width_mult": 0.75, "input_features": 24}, {"width_mult": 0.75, "initial_chs": 24}),
        ({"width_mult": 1.3, "round_nearest": 8}, {"width_mult": 1.3, "ch_div": 8}),
    ],
)
def test_agrees_with_timm_under_the_key_map(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    twin, timms = ReXNet(num_classes=5, **ours), timm_model(num_classes=5, **theirs)
    calibrate(twin, (4, 3, 65, 47))
    state = twin.state_dict()
    keys = {own: other for own, other, *_ in FACTS["ReXNetV1 x1.0"]["key_map"]}
    wanted = timms.state_dict()
    assert [keys[key] for key in state] == list(wanted)
    timms.load_state_dict(
        {keys[key]: value.reshape(wanted[keys[key]].shape) for key, value in state.items()}
    )
    x = torch.randn(2, 3, 65, 47, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        a, b = twin.double()(x), timms.eval().double()(x)
    assert float((a - b).abs().max() / b.abs().max()) <= 1e-12  # rounding; measured 1e-15


@pytest.mark.parametrize("depth_mult", [0.5, 1.2, 2.0])
def test_depth_scales_as_timms(depth_mult: float) -> None:
    with torch.device("meta"):
        timms = timm_model(depth_mult=depth_mult)
    twin = on_meta(ReXNet, depth_mult=depth_mult)
    assert [tuple(p.shape)[:2] for p in twin.parameters()] == [
        tuple(p.shape)[:2] for p in timms.parameters()
    ]


def test_silu_has_the_derivatives_of_pytorchs() -> None:
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([1e30, -1e30, -745.0, 800.0])])
    own, theirs = (x.double().requires_grad_() for _ in range(2))
    y: Any = SiLUFunction.apply(own)
    z = functional.silu(theirs)
    for _ in range(3):  # the value, the slope, the curvature
        assert y.isfinite().all()
        # The scale of the derivatives is 1, of the values their own: a few roundings of 1e-16.
        assert ((y - z).abs() / z.abs().clamp(min=1)).max() <= 2e-15
        (y,) = torch.autograd.grad(y.sum(), own, create_graph=True)
        (z,) = torch.autograd.grad(z.sum(), theirs, create_graph=True)
    small = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(SiLU(), small)


def test_input_is_not_written_to() -> None:
    block = RexBottleneck(4, 6, squeezed_features=2).eval()
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    y = block(x)
    assert torch.equal(x, before)
    assert torch.equal(y[:, 4:], block.out(x)[:, 4:])
    assert torch.equal(y[:, :4], block.out(x)[:, :4] + x)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ReXNet, {"num_classes": 0}, r"`num_classes` \(=0\)"),
        (ReXNet, {"width_mult": 0.0}, r"`width_mult` \(=0.0\) must be positive"),
        (ReXNet, {"depth_mult": -1.0}, r"`depth_mult` \(=-1.0\) must be positive"),
        (ReXNet, {"se_ratio": 1000}, r"`reduction` \(=1000\)"),
        (ReXNetLite, {"round_nearest": 0}, r"`round_nearest` \(=0\)"),
        (ReXNetLite, {"kernel_sizes": (3, 5)}, r"`kernel_sizes` \(=\(3, 5\)\) must have 6"),
    ],
)
def test_errors_name_argument_value_and_rule(
    kind: type[nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(kind, **arguments)
