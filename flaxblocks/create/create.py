"""`create_model`: look a model up, build it, fetch its weights, load them."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, signature
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.create.build import ANY_KEYS, DEFAULT_CLASSES, Keys, build
from flaxblocks.create.host import built_on_host
from flaxblocks.create.match import Match, match, unread_by
from flaxblocks.create.origin import origin_of, remember
from flaxblocks.create.places import Choice
from flaxblocks.create.pour import pour
from flaxblocks.create.refuse import check
from flaxblocks.create.report import LoadReport
from flaxblocks.create.several import warn_of_several
from flaxblocks.create.source import read_source
from flaxblocks.models import FeatureExtractor
from flaxblocks.models.registry import ModelEntry, find_model
from flaxblocks.nn.arguments import is_integer
from flaxblocks.nn.host_random import stream_keys
from flaxblocks.weights.resolve import Weights, published_weights, resolve_weights

__all__ = ["create_model", "recognise"]


def create_model(
    name: str,
    *,
    weights: Weights = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    features_only: bool = False,
    out_indices: Iterable[int] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs | int | jax.Array = 0,
    key: str | None = None,
    prefix: str | None = None,
    ema: bool | None = None,
    drop: Iterable[str] = (),
    **config: Any,
) -> Any:
    """Build a registered model, in training mode as PyTorch and Flax do; call `model.eval()` for
    inference.

    Args:
        name: a name of torchvision or timm; `list_models()` has them all.
        weights: None for random ones; a checkpoint file or folder; a mapping of PyTorch's keys to
            arrays or tensors; or the name of published weights ("IMAGENET1K_V2", "DEFAULT",
            "ra_in1k"), downloaded once; torchvision's enums are such names too.
        num_classes: logits; 0 for pooled features. By default as many as the weights have, and 1000
            where there are no weights. Where the weights have another number, another head or none,
            only the head is drawn.
        in_channels: channels of the image. Where the weights are for RGB, the first convolution is
            adapted as timm does it: summed for 1 channel, repeated and scaled for others.
        features_only: give the feature maps at each reduction, not logits.
        out_indices: which maps (with `features_only`), as indices into `feature_info`; all unless
            given.
        dtype: of the computation, such as `jnp.bfloat16`; None takes the widest of input and
            parameters.
        param_dtype: of the parameters and running statistics.
        rngs: `nnx.Rngs`, a seed or a JAX random key.
        key: which state dict of the checkpoint, as `model_ema`; dotted where it lies deeper.
        prefix: of the network's names in it, as `backbone.`; found by itself where only one network
            has the model's names.
        ema: take averaged weights, or the raw ones; by default averaged ones where there are any.
        drop: names of the checkpoint to leave out, each with all below it, or patterns such as
            `*.num_updates`.
        **config: further arguments of the model's class, such as `width_mult`.

    Returns: an `ImageModel`, `(N, H, W, in_channels)` to `(N, num_classes)`; or a
        `FeatureExtractor`.

    Raises:
        ValueError: an unknown name, weight name or argument (near ones are suggested), or one out
            of range.
        CheckpointError: the weights cannot be read.
        ConversionError: the weights are not this model's.
    Warns: UserWarning where a checkpoint holds several networks and the caller has not said which,
        or where another model has the same names and nothing tells the two apart.
    """
    entry = find_model(name)
    _check_names(entry, config)
    source = _streams(rngs) if isinstance(rngs, nnx.Rngs) else _checked_seed(rngs)
    num_classes = int(num_classes) if is_integer(num_classes) else num_classes  # NumPy's too
    _check_types(dtype=dtype, param_dtype=param_dtype)
    config = {"in_channels": in_channels, "dtype": dtype, "param_dtype": param_dtype, **config}
    if features_only and num_classes is None:
        num_classes = 0  # the head would be dropped
    if out_indices is not None and not features_only:
        raise ValueError(f"`out_indices` (={out_indices}) needs `features_only=True`")
    if weights is None and num_classes is None:
        num_classes = DEFAULT_CLASSES
    contents = None
    if weights is not None:
        contents = read_source(resolve_weights(name, weights))
    choice = Choice(key, prefix, ema, drop)
    maps = tuple(out_indices) if isinstance(out_indices, Iterable) else out_indices
    extractor = partial(FeatureExtractor, out_indices=maps) if features_only else None
    config = {"num_classes": num_classes, **config}
    make = partial(_make, entry, config, contents, choice, extractor)
    model = built_on_host(make, source)
    if weights is not None:
        remember(model, weights=published_weights(name, weights))
    report = origin_of(model).report
    if contents is not None and report is not None:
        _warn(report, contents, choice)
    if extractor is None:
        return model
    extracted = extractor(model)
    origin = origin_of(model)
    remember(
        extracted,
        row=origin.row,
        layout=origin.layout,
        report=origin.report,
        weights=origin.weights,
    )
    return extracted


def _make(
    entry: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents | None,
    choice: Choice,
    extractor: Callable[[Any], nnx.Module] | None,
    source: Mapping[str, Any] | int | jax.Array,
) -> Any:
    """The module, from a checkpoint if there is one; `source` is a key for each stream, or a seed
    or key that they come from.
    """
    keys = source if isinstance(source, Mapping) else _seeded(source)
    if contents is None:
        return build(entry, config, keys)
    found = recognise(entry, config, contents, choice, keys, extractor=extractor)
    return pour(found, contents)[0]


def recognise(
    entry: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice | None = None,
    keys: Keys = ANY_KEYS,
    *,
    features: bool = False,
    extractor: Callable[[Any], nnx.Module] | None = None,
) -> Match:
    """What a checkpoint is of a registry row, as `match`; one that does not fit is refused.

    `features` takes a checkpoint without a head for one of a model without one; with `extractor`,
    which is to keep a part of the model, no more is needed than that part.

    Raises: ConversionError that names every fault and, where one was found, what would help;
        ValueError and CheckpointError as `match`.
    """
    found = match(entry, config, contents, choice, keys, features=features)
    if extractor is not None:
        found = replace(found, unread=unread_by(found, extractor))
    check(found, entry, config, contents, choice, draws=not features)
    return found


def _warn(report: LoadReport, contents: Contents, choice: Choice) -> None:
    """Say what was decided for the caller."""
    warn_of_several(contents.name, report.taken, report.others, choice, depth=4)
    if report.doubt:
        warnings.warn(report.doubt, stacklevel=3)


def _check_names(entry: ModelEntry, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a name that is near one of `create_model`'s own, and not the model's."""
    parameters = signature(create_model).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for argument in config:
        near = get_close_matches(argument, [*own, *entry.arguments], n=1, cutoff=0.8)
        if argument not in entry.arguments and set(near) & set(own):
            raise ValueError(f"unknown argument `{argument}`: did you mean `{near[0]}`?")


def _check_types(**types: Any) -> None:
    """Raise ValueError for the first one that is neither a floating-point type nor None."""
    for name, dtype in types.items():
        try:
            if dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
                continue
        except TypeError:
            pass
        raise ValueError(f"`{name}` (={dtype!r}) must be a floating-point type, as 'bfloat16'")


def _checked_seed(seed: Any) -> int | jax.Array:
    if isinstance(seed, jax.Array):
        return seed
    if not is_integer(seed):
        raise ValueError(f"`rngs` (={seed!r}) must be `nnx.Rngs`, a seed or a JAX random key")
    return int(seed)


def _seeded(source: int | jax.Array) -> Mapping[str, Any]:
    """A key for each stream of `nnx.Rngs(source)`."""
    keys = stream_keys(source, 2)
    if keys is None:
        return _streams(nnx.Rngs(source))
    return {"params": keys[0], "dropout": keys[1]}


def _streams(rngs: nnx.Rngs) -> dict[str, Any]:
    """A key for each stream, drawn from `rngs`; a stream that it has not is `params`'s."""
    known = set(dict(rngs.items()))
    if not known & {"params", "default"}:
        raise ValueError(
            f"`rngs` (with {sorted(known)}) must have the stream 'params' or 'default'"
        )
    dropout = "dropout" if {"dropout", "default"} & known else "params"
    return {"params": rngs.params(), "dropout": rngs[dropout]()}
