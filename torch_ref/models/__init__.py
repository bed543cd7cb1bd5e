"""PyTorch twins of the models, one file a family."""

from torch_ref.models.mobilenetv2 import MobileNetV2

__all__ = ["MobileNetV2"]
