"""EfficientNet, Lite and V2: a stem, stages of MBConv or fused MBConv blocks, a 1x1 convolution, a
linear head. The networks of a series are one, scaled in width, depth and image size together.

Sources: Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1 and equation 3; Tan and Le 2021
(V2), https://arxiv.org/abs/2104.00298, table 4. Lite:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
The tables are in `efficientnet_rows`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.inverted import FusedMBConv, MBConv
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.models.efficientnet_layouts import efficientnet_layouts
from flaxblocks.models.efficientnet_rows import (
    V1,
    V2_BASE,
    V2_L,
    V2_M,
    V2_RW_M,
    V2_RW_S,
    V2_S,
    V2_XL,
    Stage,
)
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.models.table import check_table
from flaxblocks.nn.activation import Activation
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import (
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.norm import Norm, set_batch_norm

__all__ = ["EfficientNet"]

BLOCKS = {"mbconv": MBConv, "fused_mbconv": FusedMBConv}
# How each library draws the kernels of the blocks.
BLOCK_INITIALIZERS = {
    "torchvision": kaiming_normal_fan_out,
    "timm": kaiming_normal_fan_out_depthwise,
}


class EfficientNet(StagedModel):
    """The EfficientNets that torchvision and timm publish, V1, Lite and V2."""

    def __init__(
        self,
        *,
        stages: Sequence[Stage] = V1,
        num_classes: int = 1000,
        in_channels: int = 3,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        stem_width: int = 32,
        head_width: int = 1280,
        fix_stem_head: bool = False,
        round_widths: Literal["above_90%", "nearest"] = "above_90%",
        squeeze_excite: float | None = 0.25,
        activation: Activation = "silu",
        padding: Literal["SAME"] | None = None,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        initialization: Literal["torchvision", "timm"] = "torchvision",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            stages: the rows of a table; by default those of EfficientNet-B0.
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            width_mult: scales every width.
            depth_mult: scales the depth of each stage, rounded up.
            stem_width: output channels of the first convolution, before scaling.
            head_width: output channels of the last convolution, before scaling.
            fix_stem_head: do not scale those two, nor the depths of the first and last stage
                (Lite).
            round_widths: how widths are rounded to multiples of 8: "above_90%" to the nearest that
                is at least 90% of the width, "nearest" to the nearest (V2-B0 to B3).
            squeeze_excite: ratio of a gate's inner width to the input channels of its "mbconv"
                block; None for no gates.
            activation: a name in `nn.ACTIVATIONS`, a function, or None.
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

        Raises: ValueError for a row that is not a `Stage`, or a number out of range.
        """
        _check_stages(stages)
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(stem_width=stem_width, head_width=head_width)
        check_choice("round_widths", round_widths, ("above_90%", "nearest"))
        check_choice("padding", padding, (None, "SAME"))
        check_choice("initialization", initialization, tuple(BLOCK_INITIALIZERS))
        check_factor(width_mult=width_mult, depth_mult=depth_mult)
        if squeeze_excite is not None:
            check_factor(squeeze_excite=squeeze_excite)
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"norm": norm, "kernel_init": kaiming_normal_fan_out, **types}
        convs.update(bias=False, activation=activation)
        block_convs = {**convs, "kernel_init": BLOCK_INITIALIZERS[initialization]}
        least_part = 0.9 if round_widths == "above_90%" else 0.0
        round_to_eight = partial(make_divisible, least_part=least_part)
        end_width = 1.0 if fix_stem_head else width_mult
        ends_of_depth = (0, len(stages) - 1) if fix_stem_head else ()
        self.in_channels = in_channels
        self.depths = tuple(
            stage.depth if k in ends_of_depth else math.ceil(stage.depth * depth_mult)
            for k, stage in enumerate(stages)
        )

        trunk = Trunk("stem", round_to_eight(stem_width * end_width))
        same = {"padding": padding}
        self.stem = ConvNormAct(in_channels, trunk.features, 3, stride=2, **same, **convs)
        for stage, depth in zip(stages, self.depths, strict=True):
            features = round_to_eight(stage.out * width_mult)
            for stride in (stage.stride, *(1 for _ in range(depth - 1))):
                gate = None
                if squeeze_excite is not None and stage.kind == "mbconv":
                    squeezed = max(1, int(trunk.features * squeeze_excite))
                    widths = {"squeezed_features": squeezed, "activation": activation}
                    gate = partial(SqueezeExcite, bias_init=zeros, **widths)
                block = BLOCKS[stage.kind](
                    trunk.features,
                    features,
                    hidden_features=make_divisible(trunk.features * stage.expand_ratio),
                    kernel_size=stage.kernel,
                    stride=stride,
                    squeeze_excite=gate,
                    final_activation=None,
                    always_expand=stage.always_project,
                    stochastic_depth=stochastic_depth * len(trunk.blocks) / sum(self.depths),
                    **same,
                    **block_convs,
                )
                trunk.add(block, features, stride)
        self.add_trunk(trunk)
        self.num_features = round_to_eight(head_width * end_width)
        self.head_conv: ConvNormAct | None = ConvNormAct(
            trunk.features, self.num_features, 1, **convs
        )
        self.add_head(num_classes, dropout, kernel_init=uniform_fan_out, bias_init=zeros, **types)

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        return efficientnet_layouts(self)


def _check_stages(stages: Sequence[Stage]) -> None:
    for stage in stages:
        if not isinstance(stage, Stage):
            raise ValueError(f"`stages` has row {stage}: each must be a `Stage`")
        if stage.kind not in BLOCKS:
            raise ValueError(
                f"`stages` has kind {stage.kind!r} in {stage}: it must be one of {sorted(BLOCKS)}"
            )
    check_table("stages", stages, Stage)


TIMM = {"dropout": 0.0, "stochastic_depth": 0.0, "initialization": "timm"}
TENSORFLOWS = ("lukemelas", "transformers")  # layouts whose weights come from TensorFlow


def _row(
    library: Rows,
    name: str,
    parameters: int,
    stages: Sequence[Stage],
    also: str | None = None,
    **config: Any,
) -> None:
    """Register one row. Where both libraries use one name, timm's row is called "timm_..."; the
    layouts of libraries that only have TensorFlow's weights belong to the TensorFlow row.
    """
    in_layout: dict[str, str] = {}
    if stages is V1 and not {"padding", "fix_stem_head"} & set(config):
        in_layout = dict.fromkeys(TENSORFLOWS, f"tf_efficientnet_{name[-2:]}")
    bare = name.removeprefix("timm_")
    names = {"also": also, "library_name": bare if bare != name else None}
    library(name, parameters, in_layout=in_layout, **names, stages=stages, **config)


_torchvision_row = partial(_row, Rows(build=EfficientNet, source="torchvision"))
_timm_row = partial(_row, Rows(build=EfficientNet, source="timm", config=TIMM))


def _scaled(width_mult: float, depth_mult: float) -> dict[str, Any]:
    """Two of the three that the papers scale together; the third is the image size."""
    return {"width_mult": width_mult, "depth_mult": depth_mult}


B0, B1, B2 = _scaled(1.0, 1.0), _scaled(1.0, 1.1), _scaled(1.1, 1.2)
B3, B4, B5 = _scaled(1.2, 1.4), _scaled(1.4, 1.8), _scaled(1.6, 2.2)
B6, B7, B8 = _scaled(1.8, 2.6), _scaled(2.0, 3.1), _scaled(2.2, 3.6)


def _large(dropout: float) -> dict[str, Any]:
    """What torchvision gives B5 to B7."""
    return {"norm_eps": 1e-3, "norm_momentum": 0.01, "dropout": dropout}


V2: dict[str, Any] = {"norm_eps": 1e-3}
SLIM_V2: dict[str, Any] = {"stem_width": 24, **V2}

TF = {"padding": "SAME", "norm_eps": 1e-3}  # trained in TensorFlow
LITE = {"fix_stem_head": True, "squeeze_excite": None, "activation": "relu6"}
RW_M = {"stem_width": 24, "head_width": 1792, "width_mult": 1.2}
BASE = {"round_widths": "nearest", **TF}

# timm's B5 to B7, which have the same names there, and its V2 use B0's epsilon and momentum.
# fmt: off
_torchvision_row("efficientnet_b0", 5_288_548, V1, dropout=0.2, **B0)
_torchvision_row("efficientnet_b1", 7_794_184, V1, dropout=0.2, **B1)
_torchvision_row("efficientnet_b2", 9_109_994, V1, dropout=0.3, **B2)
_torchvision_row("efficientnet_b3", 12_233_232, V1, dropout=0.3, **B3)
_torchvision_row("efficientnet_b4", 19_341_616, V1, dropout=0.4, **B4)
_torchvision_row("efficientnet_b5", 30_389_784, V1, "timm_efficientnet_b5", **B5, **_large(0.4))
_torchvision_row("efficientnet_b6", 43_040_704, V1, "timm_efficientnet_b6", **B6, **_large(0.5))
_torchvision_row("efficientnet_b7", 66_347_960, V1, "timm_efficientnet_b7", **B7, **_large(0.5))
_torchvision_row("efficientnet_v2_s", 21_458_488, V2_S, "efficientnetv2_s", dropout=0.2, **SLIM_V2)
_torchvision_row("efficientnet_v2_m", 54_139_356, V2_M, "efficientnetv2_m", dropout=0.3, **SLIM_V2)
_torchvision_row("efficientnet_v2_l", 118_515_272, V2_L, "efficientnetv2_l", dropout=0.4, **V2)
_timm_row("timm_efficientnet_b5", 30_389_784, V1, "efficientnet_b5", **B5)
_timm_row("timm_efficientnet_b6", 43_040_704, V1, "efficientnet_b6", **B6)
_timm_row("timm_efficientnet_b7", 66_347_960, V1, "efficientnet_b7", **B7)
_timm_row("efficientnet_b8", 87_413_142, V1, **B8)
_timm_row("efficientnet_lite0", 4_652_008, V1, **B0, **LITE)
_timm_row("efficientnet_lite1", 5_416_680, V1, **B1, **LITE)
_timm_row("efficientnet_lite2", 6_092_072, V1, **B2, **LITE)
_timm_row("efficientnet_lite3", 8_197_096, V1, **B3, **LITE)
_timm_row("efficientnet_lite4", 13_006_568, V1, **B4, **LITE)
_timm_row("efficientnetv2_s", 21_458_488, V2_S, "efficientnet_v2_s", stem_width=24)
_timm_row("efficientnetv2_m", 54_139_356, V2_M, "efficientnet_v2_m", stem_width=24)
_timm_row("efficientnetv2_l", 118_515_272, V2_L, "efficientnet_v2_l", stem_width=32)
_timm_row("efficientnetv2_xl", 208_119_808, V2_XL, stem_width=32)
_timm_row("efficientnetv2_rw_t", 13_649_388, V2_S, stem_width=24, **_scaled(0.8, 0.9))
_timm_row("efficientnetv2_rw_s", 23_941_296, V2_RW_S, stem_width=24, head_width=1792)
_timm_row("efficientnetv2_rw_m", 53_236_442, V2_RW_M, **RW_M)
_timm_row("tf_efficientnet_b0", 5_288_548, V1, **B0, **TF)
_timm_row("tf_efficientnet_b1", 7_794_184, V1, **B1, **TF)
_timm_row("tf_efficientnet_b2", 9_109_994, V1, **B2, **TF)
_timm_row("tf_efficientnet_b3", 12_233_232, V1, **B3, **TF)
_timm_row("tf_efficientnet_b4", 19_341_616, V1, **B4, **TF)
_timm_row("tf_efficientnet_b5", 30_389_784, V1, **B5, **TF)
_timm_row("tf_efficientnet_b6", 43_040_704, V1, **B6, **TF)
_timm_row("tf_efficientnet_b7", 66_347_960, V1, **B7, **TF)
_timm_row("tf_efficientnet_b8", 87_413_142, V1, **B8, **TF)
_timm_row("tf_efficientnet_lite0", 4_652_008, V1, **B0, **LITE, **TF)
_timm_row("tf_efficientnet_lite1", 5_416_680, V1, **B1, **LITE, **TF)
_timm_row("tf_efficientnet_lite2", 6_092_072, V1, **B2, **LITE, **TF)
_timm_row("tf_efficientnet_lite3", 8_197_096, V1, **B3, **LITE, **TF)
_timm_row("tf_efficientnet_lite4", 13_006_568, V1, **B4, **LITE, **TF)
_timm_row("tf_efficientnetv2_b0", 7_139_704, V2_BASE, **B0, **BASE)
_timm_row("tf_efficientnetv2_b1", 8_141_052, V2_BASE, **B1, **BASE)
_timm_row("tf_efficientnetv2_b2", 10_096_086, V2_BASE, **B2, **BASE)
_timm_row("tf_efficientnetv2_b3", 14_358_406, V2_BASE, **B3, **BASE)
_timm_row("tf_efficientnetv2_s", 21_458_488, V2_S, stem_width=24, **TF)
_timm_row("tf_efficientnetv2_m", 54_139_356, V2_M, stem_width=24, **TF)
_timm_row("tf_efficientnetv2_l", 118_515_272, V2_L, stem_width=32, **TF)
_timm_row("tf_efficientnetv2_xl", 208_119_808, V2_XL, stem_width=32, **TF)
# fmt: on
