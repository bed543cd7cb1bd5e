"""MobileNetV1: pairs of a depthwise 3x3 and a 1x1 convolution, without skips; and ReXNet's Plain.

Source: Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1; Han et al. 2021,
https://arxiv.org/abs/2007.00992, appendix A (Plain).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct, conv_names, transformers_names
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.models.table import check_table
from flaxblocks.models.timm_names import head_conv_names, stage_names
from flaxblocks.nn.activation import Activation
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.conv import Padding
from flaxblocks.nn.init import (
    Initializer,
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.norm import Norm, set_batch_norm

__all__ = ["DepthwiseSeparable", "MobileNetV1"]


class Pair(NamedTuple):
    """A depthwise and a 1x1 convolution: channels of the latter, stride of the former."""

    channels: int
    stride: int


# Table 1 of the paper.
SETTING = (
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
# Plain's widths grow linearly. The ReXNet paper's 0.56 G multiply-adds go with the strides above.
PLAIN = (
    (96, 2), (144, 1),
    (192, 2), (240, 1),
    (288, 2), (336, 1), (384, 1), (432, 1), (480, 1), (528, 1),
    (576, 2), (624, 1), (1024, 1),
)  # fmt: skip
STEM_FEATURES = 32


def _timm_block(block: "DepthwiseSeparable") -> Iterator[tuple[str, ...]]:
    yield from conv_names("depthwise", "conv_dw", "bn1")
    yield from conv_names("pointwise", "conv_pw", "bn2")


def _timm(model: "MobileNetV1") -> Iterator[tuple[str, ...]]:
    yield from stage_names(model)
    yield from head_conv_names(model)


def _article(model: "MobileNetV1") -> Iterator[tuple[str, ...]]:
    """All convolutions in one Sequential."""
    yield "stem", "features.0"
    for i in range(len(model.blocks)):
        yield f"blocks.{i}.depthwise", f"features.{2 * i + 1}"
        yield f"blocks.{i}.pointwise", f"features.{2 * i + 2}"
    yield "head_conv", f"features.{2 * len(model.blocks) + 1}"
    yield "head", "classifier"


def _transformers(model: "MobileNetV1") -> Iterator[tuple[str, ...]]:
    """Hugging Face's `MobileNetV1ForImageClassification`: a list of all convolutions."""
    yield from transformers_names("stem", "mobilenet_v1.conv_stem")
    for i in range(len(model.blocks)):
        depthwise, pointwise = (f"mobilenet_v1.layer.{2 * i + k}" for k in (0, 1))
        yield from transformers_names(f"blocks.{i}.depthwise", depthwise)
        yield from transformers_names(f"blocks.{i}.pointwise", pointwise)
    yield "head", "classifier"


class DepthwiseSeparable(nnx.Module):
    """A depthwise 3x3 and a 1x1 convolution, each with norm and activation."""

    layouts = {"timm": _timm_block}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stride: int = 1,
        padding: Padding | None = None,
        norm: Norm = "batch_norm",
        activation: Activation = "relu6",
        pointwise_activation: Activation = "relu6",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = kaiming_normal_fan_out_depthwise,
        rngs: nnx.Rngs,
    ):
        """Build the two convolutions; stride and padding (by default 1 pixel) are the depthwise
        one's.
        """
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        layer = partial(ConvNormAct, bias=False, norm=norm, kernel_init=kernel_init, **types)
        depthwise = {"stride": stride, "padding": padding, "groups": in_features}
        self.depthwise = layer(in_features, in_features, 3, activation=activation, **depthwise)
        self.pointwise = layer(in_features, out_features, 1, activation=pointwise_activation)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, in_features)` to `(N, H / stride, W / stride, out_features)`, sizes rounded
        up.
        """
        return self.pointwise(self.depthwise(x))


class MobileNetV1(StagedModel):
    """MobileNetV1 of any width, and other networks of depthwise separable convolutions."""

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        own = {"timm": _timm, "article": _article}
        return own if self.head_conv is not None else {**own, "transformers": _transformers}

    # TensorFlow's, which transformers has no other weights of.
    layout_settings = {"transformers": {"padding": "SAME", "norm_eps": 1e-3}}

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        separable_setting: Sequence[tuple[int, int]] = SETTING,
        width_mult: float = 1.0,
        last_features: int | None = None,
        activation: str = "relu6",
        depthwise_activation: str | None = None,
        padding: Literal["SAME"] | None = None,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            separable_setting: rows (channels, stride), one for each pair of convolutions; by
                default table 1.
            width_mult: scales every width; that of the last convolution only upwards.
            last_features: channels of a 1x1 convolution after the pairs; None leaves it out.
            activation: name of the activation after the stem and the 1x1 convolutions.
            depthwise_activation: that after the depthwise convolutions; by default `activation`.
            padding: of the 3x3 convolutions: None is 1 on each side, "SAME" is TensorFlow's.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise.
            dropout: dropout rate before the head, in [0, 1].
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if the rate is above 0.

        Raises: ValueError for an empty setting, a wrong row, a number out of range, or an unknown
            activation.
        """
        check_common(num_classes, in_channels, dropout=dropout)
        pairs = check_table("separable_setting", separable_setting, Pair)
        if last_features is not None:
            check_positive(last_features=last_features)
        check_choice("padding", padding, (None, "SAME"))
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        check_factor(width_mult=width_mult)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options = {"norm": norm, "activation": activation, **types}
        layer = partial(ConvNormAct, bias=False, kernel_init=kaiming_normal_fan_out, **options)
        self.in_channels = in_channels
        self.depths = _depths(pairs)

        trunk = Trunk("stem", make_divisible(STEM_FEATURES * width_mult))
        self.stem = layer(in_channels, trunk.features, 3, stride=2, padding=padding)
        options = {
            "padding": padding,
            "norm": norm,
            "activation": depthwise_activation or activation,
            "pointwise_activation": activation,
            **types,
        }
        for channels, stride in pairs:
            features = make_divisible(channels * width_mult)
            block = DepthwiseSeparable(trunk.features, features, stride=stride, **options)
            trunk.add(block, features, stride)
        self.add_trunk(trunk)
        if last_features is None:
            self.num_features = trunk.features
        else:
            self.num_features = make_divisible(last_features * max(1.0, width_mult))
            self.head_conv: ConvNormAct | None = layer(trunk.features, self.num_features, 1)
        self.add_head(num_classes, dropout, kernel_init=uniform_fan_out, bias_init=zeros, **types)


def _depths(setting: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The number of pairs in each stage; a stage begins where the image shrinks."""
    depths: list[int] = []
    for _, stride in setting:
        if stride > 1 or not depths:
            depths.append(0)
        depths[-1] += 1
    return tuple(depths)


_timm_row = Rows(build=MobileNetV1, source="timm")
_article_row = Rows(
    build=MobileNetV1, source="article", oracle="torch_ref.models.mobilenetv1:MobileNetV1"
)

_timm_row(
    "mobilenet_v1",
    4_231_976,
    568_763_240,
    aliases=("mobilenetv1_100",),
    library_name="mobilenetv1_100",
)
_timm_row("mobilenetv1_100h", 5_282_600, last_features=1024)
_timm_row("mobilenetv1_125", 6_270_840, width_mult=1.25)
_article_row(
    "rexnet_plain",
    3_399_240,
    377_684_328,
    separable_setting=PLAIN,
    activation="silu",
    depthwise_activation="relu",
)
