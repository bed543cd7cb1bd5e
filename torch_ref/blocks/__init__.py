"""PyTorch twins of the block vocabulary of modern CNNs, under the names of the literature."""

from torch_ref.blocks.bottleneck import BottleNeck, LinearBottleNeck
from torch_ref.blocks.channels import make_divisible
from torch_ref.blocks.conv_norm_act import Conv1X1BnReLU, Conv3X3BnReLU, ConvNormAct
from torch_ref.blocks.depthwise import DepthWiseSeparableConv
from torch_ref.blocks.inverted import FusedMBConv, InvertedResidual, MBConv, MobileNetLikeBlock
from torch_ref.blocks.residual import ResidualAdd
from torch_ref.blocks.squeeze_excite import SqueezeExcite

__all__ = [
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
    "ResidualAdd",
    "SqueezeExcite",
    "make_divisible",
]
