"""MnasNet: inverted bottlenecks whose kernel, expansion and depth a search chose stage by stage.

Source: Tan et al. 2019, https://arxiv.org/abs/1807.11626, figure 7 (A1, with squeeze-excite); B1
and "small" as in the authors' code, which torchvision and timm follow.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.inverted import MBConv
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.models.table import check_table
from flaxblocks.models.timm_names import head_conv_names, stage_names
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import (
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.norm import Norm, set_batch_norm

__all__ = ["MnasNet"]


class Stage(NamedTuple):
    """A stage of blocks.

    Attributes:
        kernel: size of the depthwise convolutions.
        expansion: hidden channels as a multiple of a block's input channels.
        channels: output channels.
        depth: number of blocks.
        stride: of the first block.
        squeeze_excite: ratio of a gate's inner width to its block's input channels; 0 for no gate.
        skip: add the input of blocks that keep its shape.
    """

    kernel: int
    expansion: int
    channels: int
    depth: int
    stride: int
    squeeze_excite: float = 0.0
    skip: bool = True


Setting = Sequence[tuple[int, int, int, int, int, float, bool]]
LAST_FEATURES = 1280
FIRST_VERSION_STEM = 32
B1 = (
    Stage(3, 1, 16, 1, 1, skip=False),
    Stage(3, 3, 24, 3, 2),
    Stage(5, 3, 40, 3, 2),
    Stage(5, 6, 80, 3, 2),
    Stage(3, 6, 96, 2, 1),
    Stage(5, 6, 192, 4, 2),
    Stage(3, 6, 320, 1, 1, skip=False),
)
A1 = (
    Stage(3, 1, 16, 1, 1, skip=False),
    Stage(3, 6, 24, 2, 2),
    Stage(5, 3, 40, 3, 2, 0.25),
    Stage(3, 6, 80, 4, 2),
    Stage(3, 6, 112, 2, 1, 0.25),
    Stage(5, 6, 160, 3, 2, 0.25),
    Stage(3, 6, 320, 1, 1),
)
SMALL = (
    Stage(3, 1, 8, 1, 1),
    Stage(3, 3, 16, 1, 2),
    Stage(3, 6, 16, 2, 2),
    Stage(5, 6, 32, 4, 2, 0.25),
    Stage(3, 6, 32, 3, 1, 0.25),
    Stage(5, 6, 88, 3, 2, 0.25),
    Stage(3, 6, 144, 1, 1),
)
# How each library draws the kernels: those of the blocks, that of the head.
INITIALIZERS = {
    "torchvision": (kaiming_normal_fan_out, partial(uniform_fan_out, gain=3**0.5)),
    "timm": (kaiming_normal_fan_out_depthwise, uniform_fan_out),
}


def _torchvision(model: "MnasNet") -> Iterator[tuple[str, ...]]:
    """Stem, first stage and last convolution are bare layers of one Sequential; other stages are
    Sequentials of blocks.
    """
    place = yield from _bare("layers", 0, "stem")
    for path, stage, k, block in model.placed_blocks:
        layers = ("expand", "conv", "squeeze_excite", "project")
        present = [f"{path}.{name}" for name in layers if getattr(block, name) is not None]
        if stage == 0:
            place = yield from _bare("layers", place, *present)
        else:
            foreign = f"layers.{place + stage - 1}.{k}"
            yield path, foreign
            yield from _bare(f"{foreign}.layers", 0, *present)
    yield from _bare("layers", place + len(model.depths) - 1, "head_conv")
    yield "head", "classifier.1"


def _bare(foreign: str, place: int, *layers: str) -> Generator[tuple[str, ...], None, int]:
    """Layers of a Sequential from `place` on, each convolution, norm and activation by itself; the
    next place is returned. torchvision has no gates: one takes a place, as in its MobileNetV3.
    """
    for layer in layers:
        kind = layer.rpartition(".")[2]
        if kind == "squeeze_excite":
            yield layer, f"{foreign}.{place}"
            place += 1
        else:
            yield f"{layer}.conv", f"{foreign}.{place}"
            yield f"{layer}.norm", f"{foreign}.{place + 1}"
            place += 2 if kind == "project" else 3
    return place


def _timm(model: "MnasNet") -> Iterator[tuple[str, ...]]:
    yield from stage_names(model)
    yield from head_conv_names(model)


class MnasNet(StagedModel):
    """MnasNet: B1, A1 or small, by its table of stages."""

    layouts = {"torchvision": _torchvision, "timm": _timm}
    state_dict_version = {"torchvision": 2}  # 1 had a wide stem at every width

    @staticmethod
    def what_a_checkpoint_is(arrays: Mapping[str, Any]) -> str | None:
        """What is known of a checkpoint that does not fit."""
        stem = arrays.get("layers.0.weight")
        if stem is None or stem.shape[:1] != (FIRST_VERSION_STEM,):
            return None
        return (
            "it is of the first version of torchvision's MNASNet (of 2019), whose stem has "
            f"{FIRST_VERSION_STEM} channels at every width: only torchvision builds that one"
        )

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stages: Setting = B1,
        stem_features: int = 32,
        width_mult: float = 1.0,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 1 - 0.9997,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        initialization: Literal["torchvision", "timm"] = "torchvision",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            stages: rows (kernel, expansion, channels, depth, stride[, squeeze_excite[, skip]]), as
                `Stage` describes them; by default those of B1.
            stem_features: output channels of the first convolution, before scaling.
            width_mult: scales every width but the last.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise. The
                paper's 0.9997 is that of the old ones.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: in [0, 1]; block i of n (from 0) is dropped at i / n of this rate.
            initialization: whose initial weights, "torchvision" or "timm".
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for an empty table, a wrong row, or a number out of range.
        """
        rows = check_table("stages", stages, Stage)
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(stem_features=stem_features)
        check_choice("initialization", initialization, tuple(INITIALIZERS))
        check_factor(width_mult=width_mult)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_init, head_init = INITIALIZERS[initialization]
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        convs = {"bias": False, "norm": norm, "activation": "relu", **types}
        layer = partial(ConvNormAct, kernel_init=kaiming_normal_fan_out, **convs)
        self.in_channels = in_channels
        self.depths = tuple(row.depth for row in rows)

        trunk = Trunk("stem", make_divisible(stem_features * width_mult))
        self.stem = layer(in_channels, trunk.features, 3, stride=2)
        rate = stochastic_depth / sum(self.depths)
        for row in rows:
            features = make_divisible(row.channels * width_mult)
            for k in range(row.depth):
                gate = None
                if row.squeeze_excite:
                    squeezed = round(trunk.features * row.squeeze_excite)
                    gate = partial(SqueezeExcite, squeezed_features=squeezed, bias_init=zeros)
                stride = 1 if k else row.stride
                block = MBConv(
                    trunk.features,
                    features,
                    expansion=row.expansion,
                    kernel_size=row.kernel,
                    stride=stride,
                    final_activation=None,
                    squeeze_excite=gate,
                    stochastic_depth=rate * len(trunk.blocks),
                    residual=row.skip,
                    always_expand=False,
                    kernel_init=conv_init,
                    **convs,
                )
                trunk.add(block, features, stride)
        self.add_trunk(trunk)
        self.num_features = LAST_FEATURES
        self.head_conv: ConvNormAct | None = layer(trunk.features, self.num_features, 1)
        self.add_head(num_classes, dropout, kernel_init=head_init, bias_init=zeros, **types)


_torchvision_row = Rows(build=MnasNet, source="torchvision")
_timm_row = Rows(
    build=MnasNet,
    source="timm",
    config={"norm_momentum": 0.1, "dropout": 0.0, "initialization": "timm"},
)

# fmt: off
_torchvision_row("mnasnet0_5", 2_218_512, also="mnasnet_050", width_mult=0.5)
_torchvision_row("mnasnet0_75", 3_170_208, also="mnasnet_075", width_mult=0.75)
_torchvision_row("mnasnet1_0", 4_383_312, also="mnasnet_100")
_torchvision_row("mnasnet1_3", 6_282_256, width_mult=1.3)
_timm_row("mnasnet_050", 2_218_512, also="mnasnet0_5", width_mult=0.5)
_timm_row("mnasnet_075", 3_170_208, also="mnasnet0_75", width_mult=0.75)
_timm_row("mnasnet_100", 4_383_312, also="mnasnet1_0")
_timm_row("mnasnet_140", 7_115_728, width_mult=1.4)
_timm_row("mnasnet_small", 2_030_264, stages=SMALL, stem_features=8)
_timm_row("semnasnet_050", 2_082_006, stages=A1, width_mult=0.5)
_timm_row("semnasnet_075", 2_912_278, stages=A1, width_mult=0.75)
_timm_row("semnasnet_100", 3_887_038, stages=A1)
_timm_row("semnasnet_140", 6_105_992, stages=A1, width_mult=1.4)
# fmt: on
