"""The cases of the self-test, a model of each family and every block, as data."""

import fnmatch
from dataclasses import dataclass
from typing import Any

from flax import nnx

import flaxblocks.models  # noqa: F401  (fills the registry)
from flaxblocks import blocks
from flaxblocks.create.build import abstract_model, build
from flaxblocks.models.registry import find_model
from flaxblocks.nn.init import undrawn

__all__ = ["CASES", "Case", "cases_of"]

CLASSES = 100


@dataclass(frozen=True)
class Case:
    """A network, its images, and its mode.

    Attributes:
        name: name of a registered model, or of a class in `flaxblocks.blocks`.
        size: (height, width) of the images.
        batch: number of images.
        train: whether to run in training mode, with gradients and updated buffers, rather than in
            inference.
        widths: the positional arguments of a block; empty for a model.
        options: the other arguments, as pairs of name and value.
        default: whether it runs by default, not only if all cases are requested.
    """

    name: str
    size: tuple[int, int]
    batch: int
    train: bool = False
    widths: tuple[int, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    default: bool = False

    @property
    def is_block(self) -> bool:
        """Whether it is a single block, not a model."""
        return bool(self.widths)

    @property
    def layout(self) -> str:
        """The layout of its weights."""
        return "article" if self.is_block else find_model(self.name).layout

    @property
    def network(self) -> str:
        """The network as text: `MBConv(24, 32, stride=2)`, or the model's name."""
        if not self.is_block:
            return self.name
        options = [f"{name}={value}" for name, value in self.options]
        return f"{self.name}({', '.join([*map(str, self.widths), *options])})"

    @property
    def key(self) -> str:
        """Its name in the file of answers."""
        height, width = self.size
        return f"{self.network}|{self.batch}x{height}x{width}|{'train' if self.train else 'eval'}"

    @property
    def in_channels(self) -> int:
        """Channels of its images."""
        return self.widths[0] if self.is_block else 3

    def abstract(self) -> Any:
        """The abstract module, without any randomness."""
        if not self.is_block:
            return abstract_model(self.name, num_classes=CLASSES, dropout=0.0)
        with undrawn():
            return getattr(blocks, self.name)(*self.widths, **dict(self.options), rngs=nnx.Rngs(0))

    def build(self) -> Any:
        """The module with freshly drawn parameters, to be overwritten."""
        if self.is_block:
            return getattr(blocks, self.name)(*self.widths, **dict(self.options), rngs=nnx.Rngs(0))
        keys = {"params": 0, "dropout": 0}
        return build(find_model(self.name), {"num_classes": CLASSES, "dropout": 0.0}, keys)


def _inference(name: str) -> list[Case]:
    return [Case(name, (224, 224), 2, default=True), Case(name, (97, 65), 3)]


def _training(name: str, default: bool = False) -> list[Case]:
    return [
        Case(name, (96, 64), 8, train=True, default=default),
        Case(name, (224, 224), 4, train=True),
    ]


def _block(name: str, *widths: int, **options: Any) -> list[Case]:
    named = tuple(options.items())
    return [Case(name, (17, 14), 8, train, widths, named, default=True) for train in (False, True)]


# The smallest model of each family, and whether it is also trained by default: one with depthwise
# convolutions and one with dense ones.
MODELS = {
    "mnasnet_small": False,
    "mobilenetv2_035": True,
    "mobilenetv3_small_050": False,
    "regnet_y_400mf": False,
    "resnet10t": True,
    "resnext50_article": False,
    "rexnet_090": False,
    "rexnet_lite_100": False,
    "rexnet_plain": False,
    "tf_efficientnet_lite0": False,
}

CASES: tuple[Case, ...] = (
    *(case for name in MODELS for case in _inference(name)),
    *(case for name, default in MODELS.items() for case in _training(name, default)),
    *_block("ConvNormAct", 24, 32, kernel_size=5, stride=2, groups=2, activation="silu"),
    *_block("Conv1X1BnReLU", 24, 32, stride=2),
    *_block("Conv3X3BnReLU", 24, 32),
    *_block("BottleNeck", 64, 64, stride=2),
    *_block("LinearBottleNeck", 32, 64),
    *_block("InvertedResidual", 24, 32, depthwise=True, stride=2),
    *_block("MobileNetLikeBlock", 24, 24, kernel_size=5, squeeze_excite=4),
    *_block("MBConv", 24, 24),
    *_block("MBConv", 24, 32, kernel_size=5, stride=2, squeeze_excite=4, activation="silu"),
    *_block("FusedMBConv", 24, 32),
    *_block("DepthWiseSeparableConv", 24, 32),
    *_block("SqueezeExcite", 32),
)


def cases_of(pattern: str = "*", *, everything: bool = False) -> list[Case]:
    """The cases whose names match an `fnmatch` pattern; only the default ones unless `everything`.

    Raises: ValueError if no case matches, or `pattern` is not a str.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"`pattern` (={pattern!r}) must be a str, such as 'mobilenet*'")
    named = [case for case in CASES if fnmatch.fnmatch(case.name, pattern)]
    if not named:
        known = ", ".join(dict.fromkeys(case.name for case in CASES))
        raise ValueError(f"`pattern` (={pattern!r}) matches none of {known}")
    return named if everything else [case for case in named if case.default]
