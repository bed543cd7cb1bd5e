"""The base class of the image classifiers, with timm's ways to reach a model's features."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from flaxblocks.models.features import FeatureInfo
from flaxblocks.nn.arguments import check_positive, check_rate, is_integer
from flaxblocks.nn.drop import Dropout
from flaxblocks.nn.linear import Linear
from flaxblocks.nn.paths import descend
from flaxblocks.nn.pool import global_avg_pool

__all__ = [
    "ImageModel",
    "check_classes",
    "check_common",
]

HEADS_ELSEWHERE = ("fc", "classifier", "last_linear")  # PyTorch's names of a model's last layer


class ImageModel(nnx.Module):
    """Base of the classifiers: an image `(N, H, W, in_channels)` to logits `(N, num_classes)`.

    A subclass defines these, and inherits the rest:

    | it sets | which is |
    |---|---|
    | `in_channels` | number of image channels |
    | `num_features` | channels of the last feature map |
    | `head_features` | length of what `embed` returns; `num_features` unless it is overridden |
    | `feature_info` | the feature map at each reduction, by the name of a step |
    | `dropout` | the dropout before the head |
    | `head` | the last layer, a `Linear` with an output for each class; None for 0 classes |
    | `steps` | a property: (name, callable) pairs that lead to the last feature map, in order |
    | `embed()` | pooling, and whatever else comes before dropout and head |
    | `first_conv` | the path of the convolution that takes the image |

    A step is called by the native path of its module, or has a name of its own if it has no module,
    such as a pooling function. Steps that `drop_after` removed are left out.
    """

    in_channels: int
    num_features: int
    feature_info: FeatureInfo
    first_conv = "stem.conv"
    layouts: Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]
    dropout: nnx.Module
    head: nnx.Module | None

    @property
    def steps(self) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        """(name, step) in forward order, up to the last feature map.

        This is a property because `nnx.tabulate` calls methods under `jax.jit`, which cannot return
        modules.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `steps`")

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        """Logits, or pooled features if the model was built with `num_classes=0`."""
        return self.forward_head(self.forward_features(x))

    @property
    def num_classes(self) -> int:
        """The number of logits, read from the head that is there now; 0 without a head.

        Of a head of several layers it is the width of the last one that has a width.
        """
        return 0 if self.head is None else _width(self.head)

    @num_classes.setter
    def num_classes(self, _: int) -> None:
        """Ignore the value: the head decides. A subclass may assign it all the same."""

    @property
    def head_features(self) -> int:
        """Length of the vector that the head takes."""
        return self.num_features

    def add_head(self, num_classes: int, dropout: float, *, rngs: nnx.Rngs, **options: Any) -> None:
        """Set `dropout` and `head`, as the last step of a subclass's `__init__`.

        Args:
            num_classes: number of logits; 0 builds no head.
            dropout: dropout rate before the head, in [0, 1].
            rngs: random streams: `params`, and `dropout` if the rate is above 0.
            **options: other arguments of `Linear`.
        """
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = (
            Linear(self.head_features, num_classes, **options, rngs=rngs) if num_classes else None
        )

    def reset_classifier(self, num_classes: int, *, rngs: nnx.Rngs | int = 0) -> None:
        """Replace the head by a fresh one, in place; everything else stays as it is.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            rngs: random streams or a seed; the head is drawn as PyTorch draws a linear layer.

        Raises: ValueError unless `num_classes` is an integer of 0 or more.
        """
        check_classes(num_classes, self.in_channels)
        streams = rngs if isinstance(rngs, nnx.Rngs) else nnx.Rngs(rngs)
        types = _types_of(descend(self, self.first_conv))
        self.head = (
            Linear(self.head_features, num_classes, **types, rngs=streams) if num_classes else None
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises: ValueError for a module under PyTorch's name of the head, where nothing would call
            it.
        """
        if name in HEADS_ELSEWHERE and isinstance(value, nnx.Module) and hasattr(self, "head"):
            raise ValueError(
                f"`{name}` is called `head` here: `model.head = ...`, or "
                "`model.reset_classifier(num_classes)`"
            )
        super().__setattr__(name, value)

    def embed(self, x: Float[Array, "N h w F"]) -> Float[Array, "N E"]:
        """The mean of the last feature map over its pixels: `(N, h, w, F)` to `(N, F)`."""
        return global_avg_pool(x)

    def forward_features(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w F"]:
        """The last feature map, `(N, h, w, num_features)`."""
        for _, step in self.steps:
            x = step(x)
        return x

    def forward_head(
        self, x: Float[Array, "N h w F"], *, pre_logits: bool = False
    ) -> Float[Array, "N K"]:
        """Logits from the last feature map: `embed`, dropout, `head`.

        With `pre_logits` the result is what the head would take, `(N, head_features)`.
        """
        x = self.dropout(self.embed(x))
        return x if pre_logits or self.head is None else self.head(x)

    def forward_intermediates(
        self, x: Float[Array, "N H W C"], out_indices: Iterable[int] | None = None
    ) -> list[jax.Array]:
        """The maps of `feature_info` at `out_indices`, finest first; no later step runs.

        Raises: ValueError for an index out of range.
        """
        return self._maps(x, self.feature_info.select(out_indices))

    def _maps(self, x: jax.Array, indices: tuple[int, ...]) -> list[jax.Array]:
        wanted = [self.feature_info[i].module for i in indices]
        maps = []
        for name, step in self.steps:
            x = step(x)
            if name in wanted:
                maps.append(x)
            if len(maps) == len(wanted):
                break
        return maps

    def drop_after(self, index: int) -> None:
        """Remove what runs after feature map `index`, and the head."""
        names = [name for name, _ in self.steps]
        last = names.index(self.feature_info[index].module)
        for name in reversed(names[last + 1 :]):
            path, _, step = name.rpartition(".")
            owner = descend(self, path)
            if step.isdecimal():
                owner.pop(int(step))
            elif hasattr(owner, step):
                setattr(owner, step, None)
        self.head = None


def _width(head: nnx.Module) -> int:
    """`out_features` of the last layer within that has them; 0 if none has."""
    own = getattr(head, "out_features", None)
    if is_integer(own):
        return int(own)
    below = head.layers if isinstance(head, nnx.Sequential) else vars(head).values()
    widths = [_width(layer) for layer in below if isinstance(layer, nnx.Module)]
    return next(filter(None, reversed(widths)), 0)


def _types_of(layer: Any) -> dict[str, Any]:
    """The dtype of a layer's computation and that of its parameters."""
    return {"dtype": layer.dtype, "param_dtype": layer.kernel.dtype}


def check_classes(num_classes: int, in_channels: int) -> None:
    """Raise ValueError unless `num_classes` is at least 0 and `in_channels` at least 1."""
    check_positive(in_channels=in_channels)
    if not is_integer(num_classes) or num_classes < 0:
        raise ValueError(
            f"`num_classes` (={num_classes!r}) must be an integer of 0 (pooled features) or more"
        )


def check_common(num_classes: int, in_channels: int, **rates: float) -> None:
    """`check_classes`, and ValueError for the first of `rates` that is no probability."""
    check_classes(num_classes, in_channels)
    for name, rate in rates.items():
        check_rate(name, rate)
