"""The models, one file for each family. Importing this package fills the registry: every file in
this folder is imported, so a new family is one new file.
"""

import importlib
import pkgutil

from flaxblocks.models.efficientnet import EfficientNet
from flaxblocks.models.feature_extractor import FeatureExtractor
from flaxblocks.models.features import Feature, FeatureInfo
from flaxblocks.models.image_model import ImageModel
from flaxblocks.models.mnasnet import MnasNet
from flaxblocks.models.mobilenetv1 import MobileNetV1
from flaxblocks.models.mobilenetv2 import MobileNetV2
from flaxblocks.models.mobilenetv3 import MobileNetV3
from flaxblocks.models.regnet import RegNet
from flaxblocks.models.resnet import ResNet
from flaxblocks.models.resnext_article import ResNeXtArticle
from flaxblocks.models.rexnet import ReXNet
from flaxblocks.models.rexnet_lite import ReXNetLite

__all__ = [
    "EfficientNet",
    "Feature",
    "FeatureExtractor",
    "FeatureInfo",
    "ImageModel",
    "MnasNet",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "ReXNet",
    "ReXNetLite",
    "RegNet",
    "ResNeXtArticle",
    "ResNet",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
