"""PyTorch twins of the models, one file a family."""

from torch_ref.models.mobilenetv1 import MobileNetV1
from torch_ref.models.mobilenetv2 import MobileNetV2
from torch_ref.models.resnext import ResNeXtArticle
from torch_ref.models.rexnet import ReXNet, ReXNetLite

__all__ = [
    "MobileNetV1",
    "MobileNetV2",
    "ReXNet",
    "ReXNetLite",
    "ResNeXtArticle",
]
