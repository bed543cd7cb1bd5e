"""Convolution, normalisation, activation: the unit that every other block is built of."""

from collections.abc import Callable
from functools import partial

from torch import nn

from torch_ref.blocks.channels import require_positive

__all__ = [
    "Activation",
    "Conv1X1BnReLU",
    "Conv3X3BnReLU",
    "ConvNormAct",
    "Norm",
    "make_activation",
    "make_norm",
]

Activation = str | Callable[[], nn.Module] | None
Norm = str | Callable[[int], nn.Module] | None

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,  # the exact form with erf
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": partial(nn.LeakyReLU, 0.01),
    "mish": nn.Mish,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch_norm": nn.BatchNorm2d,
    "group_norm": partial(nn.GroupNorm, 32, eps=1e-5),
}


def make_activation(activation: Activation) -> nn.Module:
    """The activation of that name, or what the factory makes; None is the identity."""
    if activation is None:
        return nn.Identity()
    if callable(activation):
        return activation()
    if activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(
            f"`activation` (={activation!r}) must be None, a factory or one of {names}"
        )
    return ACTIVATIONS[activation]()


def make_norm(norm: Norm, features: int) -> nn.Module:
    """The norm of that name for `features` channels, or what the factory makes; None: identity."""
    if norm is None:
        return nn.Identity()
    if callable(norm):
        return norm(features)
    if norm not in NORMS:
        names = ", ".join(NORMS)
        raise ValueError(f"`norm` (={norm!r}) must be None, a factory or one of {names}")
    return NORMS[norm](features)


class ConvNormAct(nn.Sequential):
    """Convolution, then normalisation, then activation; keys `0.` and `1.`.

    Args:
        padding: Zeros on each side; `kernel_size // 2` if None, whatever the dilation.
        norm: "batch_norm", "group_norm" (32 groups), None, or a factory called with `out_features`.
        activation: A name, a factory called with nothing, or None for the identity.

    Shape: `(N, in_features, H, W)` to `(N, out_features, H', W')`.

    Raises: ValueError for a number below 1, a negative padding, groups that do not divide the
        widths, an unknown name.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
    ) -> None:
        require_positive(
            in_features=in_features, out_features=out_features, kernel_size=kernel_size
        )
        require_positive(stride=stride, dilation=dilation, groups=groups)
        if padding is None:
            padding = kernel_size // 2
        if padding < 0:
            raise ValueError(f"`padding` (={padding}) must be at least 0")
        for name, features in (("in_features", in_features), ("out_features", out_features)):
            if features % groups:
                raise ValueError(
                    f"`{name}` (={features}) must be divisible by `groups` (={groups})"
                )
        conv = nn.Conv2d(
            in_features, out_features, kernel_size, stride, padding, dilation, groups, bias
        )
        layers: list[nn.Module] = [conv]
        if norm is not None:
            layers.append(make_norm(norm, out_features))
        if activation is not None:
            layers.append(make_activation(activation))
        super().__init__(*layers)


Conv1X1BnReLU = partial(ConvNormAct, kernel_size=1)
Conv3X3BnReLU = partial(ConvNormAct, kernel_size=3)
