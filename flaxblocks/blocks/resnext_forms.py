"""A ResNeXt block in the paper's three equivalent forms, and the branch width for a cardinality.

| figure 3 | form | here |
|---|---|---|
| a | the sum of C branches 1x1 -> 3x3 -> 1x1 | `ResNeXtBranches(join="sum")` |
| b | C branches 1x1 -> 3x3 side by side, then one 1x1 | `ResNeXtBranches(join="concatenate")` |
| c | one branch, its 3x3 in C groups | `BottleNeck(hidden_features=C * d, groups=C)` |

Form c is the one to use; a and b illustrate it. With weights from `copy_grouped_weights`, all three
compute the same function, in training mode too.

Source: Xie et al. 2017, https://arxiv.org/abs/1611.05431, figure 3 and sections 3.3 and 3.4.
"""

import math
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.bottleneck import BottleNeck
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.residual import apply
from flaxblocks.nn.arguments import check_choice, check_positive
from flaxblocks.nn.conv import Conv
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import BatchNorm

__all__ = ["ResNeXtBranches", "cardinality_width", "copy_grouped_weights", "transform_cost"]


class Branch(nnx.Module):
    """One of the C branches: a 1x1 to `width`, a 3x3 and, if `out_features` is given, a 1x1
    convolution without norm or activation.
    """

    def __init__(
        self, in_features: int, width: int, out_features: int | None, stride: int, **options: Any
    ):
        """`options` are the dtypes, the initialiser and the random streams of each layer."""
        self.reduce = ConvNormAct(in_features, width, 1, bias=False, **options)
        self.conv = ConvNormAct(width, width, 3, stride=stride, bias=False, **options)
        self.expand = Conv(width, out_features, 1, bias=False, **options) if out_features else None

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features or width)`.
        """
        return apply(x, self.reduce, self.conv, self.expand)


class ResNeXtBranches(nnx.Module):
    """relu(join(C branches of x) + shortcut(x)): figures 3a and 3b of the paper.

    If the branches are summed, the third batch norm follows the sum, before the shortcut is added.
    If they are concatenated, a 1x1 convolution with that norm follows. `shortcut` is a 1x1
    `ConvNormAct` without activation if the shape changes, else None.

    Source: Xie et al. 2017, https://arxiv.org/abs/1611.05431, equation 3 and figure 3.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        cardinality: int = 32,
        width: int = 4,
        join: Literal["sum", "concatenate"] = "sum",
        stride: int = 1,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the branches.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            cardinality: C, the number of branches.
            width: d, the inner channels of each branch.
            join: form a ("sum") or form b ("concatenate").
            stride: stride of each 3x3 convolution and of the shortcut.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            rngs: random streams; parameters are drawn from the stream `params`.

        Raises: ValueError if a number is not a positive integer or `join` is unknown.
        """
        check_positive(in_features=in_features, out_features=out_features)
        check_positive(cardinality=cardinality, width=width, stride=stride)
        check_choice("join", join, ("sum", "concatenate"))
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"kernel_init": kernel_init, **types}
        linear = {"bias": False, "activation": None, **convs}
        self.out_features = out_features
        summed = join == "sum"
        branch_end = out_features if summed else None
        branches = (
            Branch(in_features, width, branch_end, stride, **convs) for _ in range(cardinality)
        )
        self.branches = nnx.List(branches)
        self.norm = BatchNorm(out_features, **types) if summed else None
        joined = cardinality * width
        self.expand = None if summed else ConvNormAct(joined, out_features, 1, **linear)
        reshapes = in_features != out_features or stride != 1
        self.shortcut = (
            ConvNormAct(in_features, out_features, 1, stride=stride, **linear) if reshapes else None
        )

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features)`.
        """
        outputs = [branch(x) for branch in self.branches]
        if self.expand is None:
            y = apply(sum(outputs[1:], start=outputs[0]), self.norm)
        else:
            y = self.expand(jnp.concatenate(outputs, axis=-1))
        return nnx.relu(y + apply(x, self.shortcut).astype(y.dtype))


def copy_grouped_weights(block: BottleNeck, branches: ResNeXtBranches) -> None:
    """Copy the weights of `block`, form c, into `branches` in place, so that both compute the same
    function.

    Args:
        block: `BottleNeck(in_features, out_features, hidden_features=C * d, groups=C, stride=...,
            bias=False, shortcut_activation=None)`, with the default activations and norms.
        branches: a block with the same widths, cardinality and stride.

    Raises: ValueError if the two differ in shape or in their variables; then nothing is copied.
    """
    groups, count = block.conv.conv.groups, len(branches.branches)
    hidden, width = block.conv.conv.out_features, branches.branches[0].conv.conv.out_features
    wanted = _shape(branches.branches[0], branches.out_features, count, width)
    given = _shape(block, block.expand.conv.out_features, groups, hidden // groups)
    if given != wanted:
        raise ValueError(f"`block` ({given}) must have the shape of `branches` ({wanted})")
    source, target = _variables(block), _variables(branches)
    places = {path: _place(path, width) for path in target}
    strangers = set(source) ^ {name for name, _ in places.values()}
    if strangers:
        raise ValueError(
            f"`block` must have the layers of `branches` and no others; one of them lacks "
            f"{', '.join(sorted(strangers))}"
        )
    for path, (name, index) in places.items():
        whole = source[name][...]
        part = whole[index] if whole.ndim else whole
        target[path].set_value(part.astype(target[path].dtype))


def _shape(
    layers: BottleNeck | Branch, out_features: int, cardinality: int, width: int
) -> dict[str, Any]:
    return {
        "in_features": layers.reduce.conv.in_features,
        "out_features": out_features,
        "cardinality": cardinality,
        "width": width,
        "stride": layers.conv.conv.stride,
    }


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    flat = nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): variable for path, variable in flat}


def _place(path: str, width: int) -> tuple[str, tuple[Any, ...]]:
    """Where form c holds a variable of `ResNeXtBranches`: the path of an array and an index into
    it.

    Branch i has the inner channels from i d up to (i + 1) d.
    """
    if path.startswith("norm."):
        return f"expand.{path}", (...,)
    if not path.startswith("branches."):
        return path, (...,)
    _, i, name = path.split(".", maxsplit=2)
    mine = slice(int(i) * width, (int(i) + 1) * width)
    if name == "expand.kernel":
        return "expand.conv.kernel", (..., mine, slice(None))
    return name, (..., mine)


def transform_cost(cardinality: int, width: int, features: int = 256) -> int:
    """The number of convolution parameters in a block, C (F d + 9 d^2 + d F), which is also its
    multiply-adds per pixel.

    Args:
        cardinality: C, the number of branches or groups.
        width: d, the inner channels of each branch.
        features: F, the channels of the input and the output.

    Source: Xie et al. 2017, section 3.4, equation 4: 70k for 32 x 4d.
    """
    check_positive(cardinality=cardinality, width=width, features=features)
    return cardinality * (features * width + 9 * width**2 + width * features)


def cardinality_width(cardinality: int, features: int = 256) -> int:
    """The width d at which C branches cost as much as ResNet's bottleneck: 32 -> 4.

    d is the integer nearest to the root of C (2 F d + 9 d^2) = the cost of one branch with F // 4
    channels.

    Args:
        cardinality: C, the number of branches.
        features: F, the channels of the block's input and output; ResNet's inner width is F // 4.

    Returns: d; for 256 channels 64, 40, 24, 14 and 4 at C = 1, 2, 4, 8 and 32.

    Raises: ValueError if C is so large that d would be 0, or F is below 4.

    Source: Xie et al. 2017, https://arxiv.org/abs/1611.05431, table 2.
    """
    check_positive(cardinality=cardinality, features=features)
    if features < 4:
        raise ValueError(f"`features` (={features}) must be at least 4, ResNet's reduction")
    share = transform_cost(1, features // 4, features) / cardinality
    width = round((math.sqrt(features**2 + 9 * share) - features) / 9)
    if width < 1:
        raise ValueError(
            f"`cardinality` (={cardinality}) leaves no channel for a branch at `features` "
            f"(={features})"
        )
    return width
