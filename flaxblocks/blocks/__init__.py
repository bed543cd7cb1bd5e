"""The block vocabulary of modern CNNs, under the names of the literature."""

from flaxblocks.blocks.basic import BasicBlock
from flaxblocks.blocks.bottleneck import BottleNeck, LinearBottleNeck
from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import Conv1X1BnReLU, Conv3X3BnReLU, ConvNormAct
from flaxblocks.blocks.depthwise import DepthWiseSeparableConv
from flaxblocks.blocks.inverted import FusedMBConv, InvertedResidual, MBConv, MobileNetLikeBlock
from flaxblocks.blocks.linear_bottleneck import RexBottleneck
from flaxblocks.blocks.residual import ResidualAdd
from flaxblocks.blocks.resnext_forms import (
    ResNeXtBranches,
    cardinality_width,
    copy_grouped_weights,
)
from flaxblocks.blocks.squeeze_excite import SqueezeExcite

__all__ = [
    "BasicBlock",
    "BottleNeck",
    "Conv1X1BnReLU",
    "Conv3X3BnReLU",
    "ConvNormAct",
    "DepthWiseSeparableConv",
    "FusedMBConv",
    "InvertedResidual",
    "LinearBottleNeck",
    "MBConv",
    "MobileNetLikeBlock",
    "ResNeXtBranches",
    "ResidualAdd",
    "RexBottleneck",
    "SqueezeExcite",
    "cardinality_width",
    "copy_grouped_weights",
    "make_divisible",
]
