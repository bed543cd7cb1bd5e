"""MobileNetV3: inverted bottlenecks with squeeze-excite and hard swish, pooling before the last
layer but one.

Source: Howard et al. 2019, https://arxiv.org/abs/1905.02244, tables 1 and 2, which are
in `mobilenetv3_rows`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.inverted import MBConv
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.models.image_model import check_common
from flaxblocks.models.mobilenetv3_layouts import mobilenetv3_layouts
from flaxblocks.models.mobilenetv3_rows import (
    LARGE,
    LARGE_DEEP,
    SMALL,
    STEM_FEATURES,
    Bottleneck,
    Setting,
    halve_tail,
    in_stages,
)
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.models.table import check_table
from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import (
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    normal,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.linear import Linear
from flaxblocks.nn.norm import Norm, set_batch_norm
from flaxblocks.nn.pool import global_avg_pool

__all__ = ["MobileNetV3"]

HEAD_EXPANSION = 6  # the last convolution is this many times as wide as the last bottleneck
# How each library draws the kernels: convolutions, the layer before the head, the head.
INITIALIZERS = {
    "torchvision": (kaiming_normal_fan_out, normal, normal),
    "timm": (kaiming_normal_fan_out_depthwise, kaiming_normal_fan_out, uniform_fan_out),
}


class MobileNetV3(StagedModel):
    """MobileNetV3, large or small by its table, as torchvision and as timm scale it."""

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        inverted_residual_setting: Setting = LARGE,
        last_features: int = 1280,
        width_mult: float = 1.0,
        head_depth: int = 1,
        keep_ratios: bool = False,
        fix_stem: bool = False,
        reduced_tail: bool = False,
        minimal: bool = False,
        gates: Literal["eights", "quarters"] = "eights",
        gates_first: bool = False,
        first_skip: bool = True,
        embedding_bias: bool = True,
        padding: Literal["SAME"] | None = None,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        initialization: Literal["torchvision", "timm"] = "torchvision",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns
                `last_features` features.
            in_channels: number of image channels.
            inverted_residual_setting: rows (kernel, hidden channels, output channels, whether there
                is a squeeze-excite, activation, stride); by default table 1.
            last_features: output channels of the layer between pooling and the head.
            width_mult: scales every width.
            head_depth: number of 1x1 convolutions after the blocks.
            keep_ratios: keep the ratio of hidden to input channels when scaling, and do not scale
                `last_features`, as timm does; else scale each by itself, as torchvision does.
            fix_stem: do not scale the stem's width (timm, below width 0.75).
            reduced_tail: halve the channels of the last stage and of what follows (for detection
                and segmentation).
            minimal: no squeeze-excite, no hard swish, no 5x5 kernel.
            gates: the inner width of the squeeze-excites is a quarter of their channels: "eights"
                rounds it to a multiple of 8 and uses ReLU, as published; "quarters" is exact and
                uses the block's activation, as timm's `rw`.
            gates_first: in blocks that expand, apply the squeeze-excite before the activation, as
                d-li14's mobilenetv3.pytorch does.
            first_skip: add the input of the first bottleneck too, if it keeps its shape.
            embedding_bias: learn a bias in the layer between pooling and the head.
            padding: of the convolutions: None is `kernel // 2` on each side, "SAME" is
                TensorFlow's.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: in [0, 1]; block i of n (from 0) is dropped at i / n of this rate.
            initialization: whose initial weights, "torchvision" or "timm".
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for an empty setting, a wrong row, or a number out of range.
        """
        table = check_table("inverted_residual_setting", inverted_residual_setting, Bottleneck)
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(last_features=last_features, head_depth=head_depth)
        check_choice("gates", gates, ("eights", "quarters"))
        check_choice("padding", padding, (None, "SAME"))
        check_choice("initialization", initialization, tuple(INITIALIZERS))
        check_factor(width_mult=width_mult)
        if reduced_tail:
            table, last_features = halve_tail(table), last_features // 2

        def scale(features: float) -> int:
            return make_divisible(features * width_mult)

        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_init, embedding_init, head_init = INITIALIZERS[initialization]
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        convs = {"bias": False, "norm": norm, **types}
        activation = "relu" if minimal else "hard_swish"
        layer = partial(
            ConvNormAct, kernel_init=kaiming_normal_fan_out, activation=activation, **convs
        )
        self.in_channels = in_channels
        self.gates_first = gates_first
        self.depths = tuple(map(len, in_stages(table)))

        trunk = Trunk("stem", STEM_FEATURES if fix_stem else scale(STEM_FEATURES))
        self.stem = layer(in_channels, trunk.features, 3, stride=2, padding=padding)
        rate = stochastic_depth / (len(table) + head_depth)
        unscaled = STEM_FEATURES
        for row in table:
            width = trunk.features / unscaled if keep_ratios else width_mult
            features, hidden = scale(row.out), make_divisible(row.hidden * width)
            unscaled = row.out
            gate = None
            if row.squeeze_excite and not minimal:
                gate = partial(_gate, row.activation) if gates == "quarters" else _rounded_gate
            block = MBConv(
                trunk.features,
                features,
                hidden_features=hidden,
                kernel_size=3 if minimal else row.kernel,
                stride=row.stride,
                padding=padding,
                activation="relu" if minimal else row.activation,
                final_activation=None,
                squeeze_excite=gate,
                gate_first=gates_first and gate is not None and hidden != trunk.features,
                stochastic_depth=rate * len(trunk.blocks),
                residual=first_skip or bool(trunk.blocks),
                always_expand=False,
                kernel_init=conv_init,
                **convs,
            )
            trunk.add(block, features, row.stride)

        if keep_ratios:
            head_conv_features = scale(HEAD_EXPANSION * table[-1].out)
        else:
            head_conv_features = HEAD_EXPANSION * trunk.features
            last_features = scale(last_features)
        widths = (trunk.features, *itertools.repeat(head_conv_features, head_depth))
        head_convs = [layer(a, b, 1) for a, b in itertools.pairwise(widths)]
        self.head_conv = head_convs[0] if head_depth == 1 else nnx.Sequential(*head_convs)
        trunk.pass_by("head_conv", head_conv_features)
        self.add_trunk(trunk)
        dense = {"bias_init": zeros, **types}
        self.last_features = last_features
        self.embedding: Linear | None = Linear(
            self.num_features,
            last_features,
            bias=embedding_bias,
            kernel_init=embedding_init,
            **dense,
        )
        self.activation = get_activation(activation)
        self.add_head(num_classes, dropout, kernel_init=head_init, **dense)

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        return mobilenetv3_layouts(self)

    @property
    def head_features(self) -> int:
        """Input channels of the head: the outputs of the layer before it."""
        return self.last_features

    def embed(self, x: Float[Array, "N h w F"]) -> Float[Array, "N E"]:
        """The mean of the last feature map through a linear layer and an activation: `(N, h, w,
        num_features)` to `(N, head_features)`.
        """
        x = global_avg_pool(x)
        return x if self.embedding is None else self.activation(self.embedding(x))

    def drop_after(self, index: int) -> None:
        """Remove what runs after feature map `index`, including the layer before the head."""
        super().drop_after(index)
        self.embedding = None

    def head_conv_paths(self) -> list[str]:
        """The native paths of the last 1x1 convolutions, of which there are `head_depth`."""
        if isinstance(self.head_conv, nnx.Sequential):
            return [f"head_conv.layers.{k}" for k in range(len(self.head_conv.layers))]
        return ["head_conv"]


def _gate(activation: Activation, features: int, **options: Any) -> SqueezeExcite:
    """By default a quarter of the channels wide (section 5.3); its biases start at 0."""
    form = {"activation": activation, "gate": "hard_sigmoid", "bias_init": zeros}
    return SqueezeExcite(features, **{**form, **options})


def _rounded_gate(features: int, **options: Any) -> SqueezeExcite:
    return _gate("relu", features, squeezed_features=make_divisible(features // 4), **options)


TIMM = {
    "keep_ratios": True,
    "norm_eps": 1e-5,
    "norm_momentum": 0.1,
    "dropout": 0.0,
    "initialization": "timm",
}
TF = {"padding": "SAME", "norm_eps": 1e-3}
RW = {"gates": "quarters", "first_skip": False, "embedding_bias": False, "norm_eps": 1e-3}


def _row(
    library: Rows,
    name: str,
    table: tuple[Bottleneck, ...],
    last_features: int,
    parameters: int,
    also: str | None = None,
    **config: Any,
) -> None:
    widths = {"inverted_residual_setting": table, "last_features": last_features}
    library(name, parameters, also=also, **widths, **config)


_torchvision_row = partial(_row, Rows(build=MobileNetV3, source="torchvision"))
_timm_row = partial(_row, Rows(build=MobileNetV3, source="timm", config=TIMM))

# fmt: off
_torchvision_row("mobilenet_v3_large", LARGE, 1280, 5_483_032, "mobilenetv3_large_100")
_torchvision_row("mobilenet_v3_small", SMALL, 1024, 2_542_856, "mobilenetv3_small_100")
_timm_row("mobilenetv3_large_075", LARGE, 1280, 3_993_528, width_mult=0.75)
_timm_row("mobilenetv3_large_100", LARGE, 1280, 5_483_032, "mobilenet_v3_large")
_timm_row("mobilenetv3_large_150d", LARGE_DEEP, 1280, 14_622_320, width_mult=1.5, head_depth=2)
_timm_row("mobilenetv3_rw", LARGE, 1280, 5_479_918, **RW)
_timm_row("mobilenetv3_small_050", SMALL, 1024, 1_593_224, width_mult=0.5, fix_stem=True)
_timm_row("mobilenetv3_small_075", SMALL, 1024, 2_041_872, width_mult=0.75)
_timm_row("mobilenetv3_small_100", SMALL, 1024, 2_542_856, "mobilenet_v3_small")
_timm_row("tf_mobilenetv3_large_075", LARGE, 1280, 3_993_528, width_mult=0.75, **TF)
_timm_row("tf_mobilenetv3_large_100", LARGE, 1280, 5_483_032, **TF)
_timm_row("tf_mobilenetv3_large_minimal_100", LARGE, 1280, 3_924_288, minimal=True, **TF)
_timm_row("tf_mobilenetv3_small_075", SMALL, 1024, 2_041_872, width_mult=0.75, **TF)
_timm_row("tf_mobilenetv3_small_100", SMALL, 1024, 2_542_856, **TF)
_timm_row("tf_mobilenetv3_small_minimal_100", SMALL, 1024, 2_044_736, minimal=True, **TF)
# fmt: on
