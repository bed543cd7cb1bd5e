"""The twins of the blocks against the same sums written out with torch.nn.functional."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.blocks import (
    BottleNeck,
    ConvNormAct,
    DepthWiseSeparableConv,
    FusedMBConv,
    InvertedResidual,
    LinearBottleNeck,
    MBConv,
    MobileNetLikeBlock,
    ResidualAdd,
    SqueezeExcite,
)

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "conv_norm_act": lambda: ConvNormAct(6, 6, 3),
    "residual": lambda: ResidualAdd(
        ConvNormAct(6, 6, 1)
    ),  # ends in a ReLU: the article's in-place sum broke on it
    "bottleneck": lambda: BottleNeck(6, 8),
    "bottleneck_same": lambda: BottleNeck(6, 6),
    "linear_bottleneck": lambda: LinearBottleNeck(6, 6),
    "inverted": lambda: InvertedResidual(6, 8, squeeze_excite=4),
    "inverted_same": lambda: InvertedResidual(6, 6),
    "mobilenet_like": lambda: MobileNetLikeBlock(6, 6),
    "mbconv": lambda: MBConv(6, 6, squeeze_excite=4),
    "mbconv_wider": lambda: MBConv(6, 8),
    "fused": lambda: FusedMBConv(6, 6, squeeze_excite=4),
    "squeeze_excite": lambda: SqueezeExcite(6, squeezed_features=3, norm="batch_norm"),
    "depthwise": lambda: DepthWiseSeparableConv(6, 8),
}


def make(build: Callable[[], nn.Module]) -> nn.Module:
    """The module in float64, in eval mode, with no parameter or statistic left at its default."""
    torch.manual_seed(0)
    module = build().double().eval()
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point():
            value.normal_(0.0, 0.5)
    return module


def sample(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def conv_norm(
    state: dict[str, Tensor], key: str, x: Tensor, stride: int = 1, padding: int = 0
) -> Tensor:
    """What `key.0` (convolution) and `key.1` (batch norm) compute in eval mode."""
    weight, bias = state[f"{key}.0.weight"], state.get(f"{key}.0.bias")
    x = F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])
    mean, var, scale, shift = (
        state[f"{key}.1.{n}"][:, None, None]
        for n in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def squeeze_excite(state: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    mean = x.mean((2, 3))
    hidden = torch.relu(mean @ state[f"{key}.fc1.weight"][:, :, 0, 0].T + state[f"{key}.fc1.bias"])
    gate = torch.sigmoid(
        hidden @ state[f"{key}.fc2.weight"][:, :, 0, 0].T + state[f"{key}.fc2.bias"]
    )
    return x * gate[:, :, None, None]


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    # Float64 rounding of two orders of summation.
    error = (actual - expected).detach().abs().max()
    assert float(error) <= 1e-12 * float(expected.detach().abs().max())


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_is_the_figure(stride: int) -> None:
    module, x = (
        make(lambda: BottleNeck(6, 12, reduction=3, stride=stride, activation="silu")),
        sample(2, 6, 7, 10),
    )
    s = module.state_dict()
    y = F.silu(conv_norm(s, "0.0.block.0", x))
    y = F.silu(conv_norm(s, "0.0.block.1", y, stride, 1))
    y = conv_norm(s, "0.0.block.2", y)
    close(module(x), torch.relu(y + torch.relu(conv_norm(s, "0.0.shortcut", x, stride))))


def test_paper_forms_leave_activations_out() -> None:
    x = sample(2, 6, 7, 10)
    plain = make(
        lambda: BottleNeck(6, 8, shortcut_activation=None, final_activation=None, bias=False)
    )
    s = plain.state_dict()
    y = torch.relu(conv_norm(s, "0.0.block.0", x))
    y = conv_norm(s, "0.0.block.2", torch.relu(conv_norm(s, "0.0.block.1", y, 1, 1)))
    close(plain(x), y + conv_norm(s, "0.0.shortcut", x))

    linear = make(lambda: LinearBottleNeck(6, 8, shortcut_activation=None, bias=False))
    linear.load_state_dict({key.removeprefix("0."): value for key, value in s.items()})
    close(linear(x), plain(x))


def test_linear_bottleneck_lacks_only_the_last_activation() -> None:
    x = sample(2, 6, 7, 10)
    full, linear = make(lambda: BottleNeck(6, 8)), make(lambda: LinearBottleNeck(6, 8))
    linear.load_state_dict(
        {key.removeprefix("0."): value for key, value in full.state_dict().items()}
    )
    assert bool((linear(x) < 0).any())
    close(full(x), torch.relu(linear(x)))


@pytest.mark.parametrize("depthwise", [False, True])
def test_inverted_residual_is_the_figure(depthwise: bool) -> None:
    module = make(
        lambda: InvertedResidual(
            6,
            8,
            expansion=2.5,
            kernel_size=5,
            stride=2,
            depthwise=depthwise,
            squeeze_excite=4,
            final_activation="tanh",
        )
    )
    s, x = module.state_dict(), sample(2, 6, 7, 10)
    y = torch.relu(conv_norm(s, "0.0.block.0", x))
    y = torch.relu(conv_norm(s, "0.0.block.1", y, 2, 2))
    y = conv_norm(s, "0.0.block.3", squeeze_excite(s, "0.0.block.2", y))
    close(module(x), torch.tanh(y + torch.relu(conv_norm(s, "0.0.shortcut", x, 2))))


@pytest.mark.parametrize(
    ("block", "residual"), [(MobileNetLikeBlock, True), (MBConv, True), (MBConv, False)]
)
def test_mobilenet_blocks_are_the_figure(block: Callable[..., nn.Module], residual: bool) -> None:
    out, root = (6, "0.0.block") if residual else (8, "0.0.0")
    module, x = make(lambda: block(6, out, squeeze_excite=6)), 4 * sample(2, 6, 7, 10)
    act = F.relu6 if block is MBConv else torch.relu
    s = module.state_dict()
    y = act(conv_norm(s, f"{root}.1", act(conv_norm(s, f"{root}.0", x)), 1, 1))
    y = conv_norm(s, f"{root}.3", squeeze_excite(s, f"{root}.2", y))
    close(module(x), torch.relu(y + x if residual else y))


@pytest.mark.parametrize("residual", [True, False])
def test_fused_mbconv_is_the_figure(residual: bool) -> None:
    out, root = (6, "0.0.block") if residual else (8, "0.0.0")
    module, x = make(lambda: FusedMBConv(6, out, squeeze_excite=6)), 4 * sample(2, 6, 7, 10)
    s = module.state_dict()
    y = F.relu6(conv_norm(s, f"{root}.0", x, 1, 1))
    y = conv_norm(s, f"{root}.2", squeeze_excite(s, f"{root}.1", y))
    close(module(x), torch.relu(y + x if residual else y))


def test_depthwise_separable_is_two_convolutions() -> None:
    module, x = (
        make(lambda: DepthWiseSeparableConv(6, 8, kernel_size=5, stride=2, padding=1, bias=False)),
        sample(2, 6, 9, 8),
    )
    s = module.state_dict()
    assert list(s) == ["0.weight", "1.weight"]
    close(module(x), F.conv2d(F.conv2d(x, s["0.weight"], None, 2, 1, groups=6), s["1.weight"]))


def test_squeeze_excite_with_norm_and_other_gate() -> None:
    module = make(
        lambda: SqueezeExcite(
            8, reduction=2, norm="batch_norm", activation="silu", gate="hard_sigmoid"
        )
    )
    s, x = module.state_dict(), sample(2, 8, 5, 6)
    assert [key for key in s if key.endswith("weight")] == ["fc1.weight", "bn.weight", "fc2.weight"]
    hidden = F.conv2d(x.mean((2, 3), keepdim=True), s["fc1.weight"], s["fc1.bias"])
    hidden = F.batch_norm(
        hidden, s["bn.running_mean"], s["bn.running_var"], s["bn.weight"], s["bn.bias"]
    )
    gate = torch.clamp(F.conv2d(F.silu(hidden), s["fc2.weight"], s["fc2.bias"]) / 6 + 0.5, 0, 1)
    close(module(x), x * gate)
    assert list(SqueezeExcite(8, squeezed_features=3).state_dict()) == [
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
    ]
    assert SqueezeExcite(8, squeezed_features=3).fc1.out_channels == 3


def test_no_expand_conv_only_if_told_and_expansion_is_one() -> None:
    for block in (InvertedResidual, MobileNetLikeBlock, MBConv):
        keys = [
            len(
                {
                    key.split(".")[3]
                    for key in block(8, 8, expansion=t, always_expand=a).state_dict()
                }
            )
            for t, a in ((1, True), (1, False), (2, False))
        ]
        assert keys == [3, 2, 3]
    module, x = make(lambda: MBConv(6, 8, expansion=1, always_expand=False)), sample(2, 6, 7, 10)
    s = module.state_dict()
    close(module(x), torch.relu(conv_norm(s, "0.0.0.1", F.relu6(conv_norm(s, "0.0.0.0", x, 1, 1)))))


def test_hidden_width_rounds_half_to_even() -> None:
    assert MBConv(5, 8, expansion=1.5).get_submodule("0.0.0.0.0").out_channels == 8
    assert FusedMBConv(5, 8, expansion=0.5).get_submodule("0.0.0.0.0").out_channels == 2
    assert InvertedResidual(17, 8, expansion=1.5).get_submodule("0.0.block.0.0").out_channels == 26


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_flow_and_the_input_stays(name: str, train: bool) -> None:
    module, leaf = make(BLOCKS[name]).train(train), sample(2, 6, 8, 9).requires_grad_()
    x = leaf * 1.0  # not a leaf: in-place arithmetic on it would be allowed, and must not happen
    before = x.detach().clone()
    (module(x) ** 2).sum().backward()
    assert torch.equal(x, before)
    assert leaf.grad is not None
    assert bool((leaf.grad != 0).any())
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        if train and (key.endswith("0.bias") or key == "fc1.bias"):
            continue  # before a training-mode norm a bias has no effect, its gradient is rounding
        assert bool((parameter.grad != 0).any()), key


def test_residual_of_the_identity_leaves_its_input() -> None:
    x = torch.ones(1, 2, 3, 3)
    assert torch.equal(ResidualAdd(nn.Identity())(x), 2 * x)
    assert torch.equal(x, torch.ones_like(x))
    # An empty Sequential is falsy, but it is a shortcut; and one that is not the identity counts.
    assert "shortcut" in dict(ResidualAdd(nn.Identity(), nn.Sequential()).named_modules())
    assert torch.equal(ResidualAdd(nn.Identity(), nn.Tanh())(x), x + torch.tanh(x))
