"""ReXNet: linear bottlenecks whose width grows by the same amount from block to block.

Source: Han et al. 2021, https://arxiv.org/abs/2007.00992, section 4 and appendix A, table A1.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct, timm_names
from flaxblocks.blocks.linear_bottleneck import RexBottleneck
from flaxblocks.blocks.squeeze_excite import SqueezeExcite, SqueezeExciteChoice
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import (
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    uniform_fan_in,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.norm import Norm, set_batch_norm

__all__ = ["DEPTHS", "ReXNet", "linear_widths", "official_names", "rex_trunk"]

DEPTHS = (1, 2, 2, 3, 3, 5)
STRIDES = (1, 2, 2, 2, 1, 2)
EXPANSIONS = (1, 6, 6, 6, 6, 6)
UNGATED_STAGES = 2  # the first ones have no squeeze-excite
STEM_FEATURES = 32
LAST_FEATURES = 1280
# How each draws the kernels: of stem and last convolution, of the blocks, of the head.
INITIALIZERS = {
    "official": (uniform_fan_in, uniform_fan_in, uniform_fan_in),
    "timm": (kaiming_normal_fan_out, kaiming_normal_fan_out_depthwise, uniform_fan_out),
}


def official_names(model: StagedModel) -> Iterator[tuple[str, ...]]:
    """Stem, blocks and last convolution, layer by layer in one Sequential."""
    yield from _numbered("stem", 0)
    for i in range(len(model.blocks)):
        yield f"blocks.{i}", f"features.{i + 3}"
    yield from _numbered("head_conv", len(model.blocks) + 3)


def _numbered(native: str, first: int) -> Iterator[tuple[str, ...]]:
    yield f"{native}.conv", f"features.{first}"
    yield f"{native}.norm", f"features.{first + 1}"
    yield native, f"features.{first + 2}", "output"


def _official(model: "ReXNet") -> Iterator[tuple[str, ...]]:
    yield from official_names(model)
    yield "head", "output.1", "conv1x1"


def _timm(model: "ReXNet") -> Iterator[tuple[str, ...]]:
    yield from timm_names("stem", "stem")
    for i in range(len(model.blocks)):
        yield f"blocks.{i}", f"features.{i}"
    yield from timm_names("head_conv", f"features.{len(model.blocks)}")
    yield "head", "head.fc"


def linear_widths(
    first: float, step: float, count: int, width_mult: float, round_nearest: int
) -> list[int]:
    """The widths of `count` blocks: `first`, and from then on `step` more each.

    Args:
        first: unscaled width of the first block, which is only scaled upwards.
        step: unscaled difference from block to block.
        count: number of blocks.
        width_mult: scales every width.
        round_nearest: widths are rounded to integers, halves to even, and then to multiples of
            this.
    """
    # Added up one by one, as the release does: a product may fall on the other side of a half.
    steps = itertools.repeat(step, count - 1)
    widths = itertools.accumulate(steps, initial=first / min(1.0, width_mult))
    return [make_divisible(round(width * width_mult), round_nearest) for width in widths]


def rex_trunk(
    stem_features: int,
    widths: Sequence[int],
    depths: Sequence[int],
    *,
    kernel_sizes: Sequence[int] = (3, 3, 3, 3, 3, 3),
    squeeze_excite: SqueezeExciteChoice = None,
    stochastic_depth: float = 0.0,
    **options: Any,
) -> Trunk:
    """The blocks of given widths, in stages of given depths.

    Args:
        stem_features: input channels of the first block.
        widths: output channels of each block.
        depths: number of blocks in each of the six stages.
        kernel_sizes: sizes of the depthwise convolutions, one for each stage.
        squeeze_excite: of the blocks from the third stage on, as `RexBottleneck` takes it.
        stochastic_depth: drop rate of the last block; the rate rises linearly from 0.
        **options: other arguments of `RexBottleneck`.
    """
    trunk = Trunk("stem", stem_features)
    stages = [(stage, k) for stage, depth in enumerate(depths) for k in range(depth)]
    for i, (features, (stage, k)) in enumerate(zip(widths, stages, strict=True)):
        stride = 1 if k else STRIDES[stage]
        block = RexBottleneck(
            trunk.features,
            features,
            expansion=EXPANSIONS[stage],
            kernel_size=kernel_sizes[stage],
            stride=stride,
            squeeze_excite=None if stage < UNGATED_STAGES else squeeze_excite,
            stochastic_depth=stochastic_depth * i / (len(widths) - 1),
            **options,
        )
        trunk.add(block, features, stride)
    return trunk


class ReXNet(StagedModel):
    """ReXNet (V1) with the official release's arguments, which timm rounds to multiples."""

    layouts = {"official": _official, "article": _official, "timm": _timm}

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        input_features: int = 16,
        final_features: int = 180,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        round_nearest: int = 1,
        use_se: bool = True,
        se_ratio: int = 12,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        initialization: Literal["official", "timm"] = "official",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            input_features: output channels of the first block; the stem has 32.
            final_features: channels that the blocks add in all; one block adds its share, so the
                last ends one share below the sum.
            width_mult: scales every width; those of stem and first block only upwards.
            depth_mult: scales the blocks of each stage, rounded up.
            round_nearest: widths are rounded to multiples of this.
            use_se: whether blocks from the third stage on have a squeeze-excite.
            se_ratio: the inner width of a squeeze-excite is its channels divided by this.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: drop rate of the last block, in [0, 1]; rates rise linearly from 0.
            initialization: whose initial weights: "timm", or "official", which leaves them to
                PyTorch.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for a number out of range, or a squeeze-excite without channels.
        """
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(input_features=input_features, round_nearest=round_nearest)
        check_positive(se_ratio=se_ratio)
        check_factor(final_features=final_features, width_mult=width_mult, depth_mult=depth_mult)
        check_choice("initialization", initialization, tuple(INITIALIZERS))
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_init, block_init, head_init = INITIALIZERS[initialization]
        bias_init = zeros if initialization == "timm" else None
        convs = {"norm": norm, "activation": "silu", **types}
        layer = partial(ConvNormAct, bias=False, kernel_init=conv_init, **convs)
        self.in_channels = in_channels
        self.depths = tuple(math.ceil(depth * depth_mult) for depth in DEPTHS)

        count = sum(self.depths)
        scaling = (width_mult, round_nearest)
        widths = linear_widths(input_features, final_features / count, count, *scaling)
        (stem_features,) = linear_widths(STEM_FEATURES, 0, 1, *scaling)
        gate = partial(_gate, se_ratio, round_nearest, norm=norm, bias_init=bias_init)
        self.stem = layer(in_channels, stem_features, 3, stride=2)
        trunk = rex_trunk(
            stem_features,
            widths,
            self.depths,
            squeeze_excite=gate if use_se else None,
            stochastic_depth=stochastic_depth,
            kernel_init=block_init,
            **convs,
        )
        self.add_trunk(trunk)
        self.num_features = make_divisible(int(LAST_FEATURES * width_mult), round_nearest)
        self.head_conv: ConvNormAct | None = layer(trunk.features, self.num_features, 1)
        self.add_head(num_classes, dropout, kernel_init=head_init, bias_init=bias_init, **types)


def _gate(se_ratio: int, round_nearest: int, features: int, **options: Any) -> SqueezeExcite:
    """A squeeze-excite whose width is rounded as those of the blocks are."""
    if features < se_ratio:
        raise ValueError(
            f"`se_ratio` (={se_ratio}) leaves no channel of a block's {features}: it must be at "
            f"most {features}"
        )
    squeezed = make_divisible(features // se_ratio, round_nearest)
    return SqueezeExcite(features, squeezed_features=squeezed, **options)


def _row(
    library: Rows,
    name: str,
    width_mult: float,
    parameters: int,
    multiply_adds: int | None = None,
    **config: Any,
) -> None:
    library(name, parameters, multiply_adds, width_mult=width_mult, **config)


_official_row = partial(
    _row, Rows(build=ReXNet, source="official", oracle="torch_ref.models.rexnet:ReXNet")
)
_timm_row = partial(_row, Rows(build=ReXNet, source="timm", config={"initialization": "timm"}))

# fmt: off
_official_row("rexnet_090", 0.9, 4_091_257, 347_738_521)
_official_row("rexnet_220", 2.2, 19_485_308, 1_842_619_898)
_timm_row("rexnet_100", 1.0, 4_796_873, 398_421_725)
_timm_row("rexnet_130", 1.3, 7_557_091, 662_295_553)
_timm_row("rexnet_150", 1.5, 9_728_593, 875_904_667)
_timm_row("rexnet_200", 2.0, 16_366_620, 1_528_952_454)
_timm_row("rexnet_300", 3.0, 34_708_792, 3_396_132_652)
_timm_row("rexnetr_100", 1.0, 4_883_304, round_nearest=8)
_timm_row("rexnetr_130", 1.3, 7_608_080, round_nearest=8)
_timm_row("rexnetr_150", 1.5, 9_782_256, round_nearest=8)
_timm_row("rexnetr_200", 2.0, 16_522_432, round_nearest=8)
_timm_row("rexnetr_300", 3.0, 34_810_008, round_nearest=16)
# fmt: on
