"""PyTorch twins of the models that neither torchvision nor timm publishes, one file a family."""

from torch_ref.models.mobilenetv1 import MobileNetV1
from torch_ref.models.resnext import ResNeXtArticle
from torch_ref.models.rexnet import ReXNet, ReXNetLite

__all__ = [
    "MobileNetV1",
    "ReXNet",
    "ReXNetLite",
    "ResNeXtArticle",
]
