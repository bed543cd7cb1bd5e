"""The models, one file a family. Importing this package fills the registry."""

from flaxblocks.models.image_model import Feature, FeatureExtractor, FeatureInfo, ImageModel
from flaxblocks.models.mobilenetv2 import MobileNetV2
from flaxblocks.models.resnet import ResNet

__all__ = ["Feature", "FeatureExtractor", "FeatureInfo", "ImageModel", "MobileNetV2", "ResNet"]
