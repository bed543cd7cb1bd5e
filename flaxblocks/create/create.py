"""`create_model`: find a model by name, fetch its weights, build it and load them."""

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
from flaxblocks.create.refuse import WithoutHead, check
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
    """Create a registered model, with random, published or your own weights.

    Like new modules in PyTorch and Flax, the model is in training mode; call `model.eval()` before
    inference.

    Args:
        name: the model's name in torchvision or timm; `list_models()` lists all names.
        weights: None for random weights; the path of a checkpoint file or folder; a mapping of
            PyTorch's keys to arrays or tensors; or the name of published weights ("IMAGENET1K_V2",
            "DEFAULT", "ra_in1k" or a torchvision enum), which are downloaded once.
        num_classes: number of logits; 0 returns pooled features. By default as many as the weights
            have, or 1000 without weights. If given, and the weights have another number, another
            head or none, only the head is drawn at random. If not given, weights without a usable
            head are refused.
        in_channels: number of channels of the input images. The first convolution of RGB weights is
            adapted as in timm: summed for 1 channel, repeated and scaled for other numbers.
        features_only: return the feature maps, one per reduction, instead of logits.
        out_indices: with `features_only`, the maps to return, as indices into `feature_info`; by
            default all.
        dtype: dtype of the computation, such as `jnp.bfloat16`; None promotes input and parameters
            to a common dtype.
        param_dtype: dtype of the parameters and running statistics.
        rngs: `nnx.Rngs`, a seed or a JAX random key.
        key: key of the state dict in the checkpoint, such as "model_ema"; a dotted path if nested.
        prefix: prefix of the network's parameter names, such as "backbone."; found automatically if
            only one network in the checkpoint has the model's names.
        ema: True loads averaged (EMA) weights, False the raw ones; by default the averaged ones if
            the checkpoint has them.
        drop: names in the checkpoint to ignore, each with all names below it, or patterns such as
            `*.num_updates`.
        **config: further arguments of the model, such as `width_mult`.

    Returns: an `ImageModel`, which maps images `(N, H, W, in_channels)` to logits
        `(N, num_classes)`; with `features_only` a `FeatureExtractor`, which returns a list of
        feature maps. `model.origin.report` says what was loaded.

    Raises:
        ValueError: a name, weights name or argument is unknown (similar ones are suggested), or a
            value is out of range.
        CheckpointError: the weights cannot be read.
        ConversionError: the weights do not fit this model; the message lists every fault.
    Warns: UserWarning if the checkpoint holds several networks and the arguments do not select one,
        or if another model has the same names and shapes and nothing tells which of them it is.
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
    """The module, filled from a checkpoint if there is one.

    `source` is a random key for each stream, or the seed or key from which these are derived.
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
    without_head: WithoutHead = "draw",
    extractor: Callable[[Any], nnx.Module] | None = None,
) -> Match:
    """Match a checkpoint with a registry row, as `match` does, and refuse it if it does not fit.

    Args:
        entry: the row.
        config: arguments of the model.
        contents: the checkpoint.
        choice: which network of the checkpoint to take.
        keys: random stream -> key, of the abstract model.
        without_head: what to do for a checkpoint without a head: "draw": refuse it, unless
            `num_classes` is given; "leave": build a model without a head; "refuse": refuse it.
        extractor: function that keeps a part of the model; the checkpoint need only hold this part.

    Raises: ConversionError that lists every fault and, if one was found, a remedy; ValueError and
        CheckpointError as `match`.
    """
    leaves = without_head == "leave"
    found = match(entry, config, contents, choice, keys, features=leaves)
    if extractor is not None:
        found = replace(found, unread=unread_by(found, extractor))
    check(found, entry, config, contents, choice, without_head)
    return found


def _warn(report: LoadReport, contents: Contents, choice: Choice) -> None:
    """Warn of decisions that were made for the caller."""
    warn_of_several(contents.name, report.taken, report.others, choice, depth=4)
    if report.doubt:
        warnings.warn(report.doubt, stacklevel=3)


def _check_names(entry: ModelEntry, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a misspelt argument of `create_model` that the model does not have."""
    parameters = signature(create_model).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for argument in config:
        near = get_close_matches(argument, [*own, *entry.arguments], n=1, cutoff=0.8)
        if argument not in entry.arguments and set(near) & set(own):
            raise ValueError(f"unknown argument `{argument}`: did you mean `{near[0]}`?")


def _check_types(**types: Any) -> None:
    """Raise ValueError for the first dtype that is neither floating-point nor None."""
    for name, dtype in types.items():
        try:
            if dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
                continue
        except TypeError:
            pass
        raise ValueError(f"`{name}` (={dtype!r}) must be a floating-point type such as 'bfloat16'")


def _checked_seed(seed: Any) -> int | jax.Array:
    if isinstance(seed, jax.Array):
        return seed
    if not is_integer(seed):
        raise ValueError(f"`rngs` (={seed!r}) must be `nnx.Rngs`, a seed or a JAX random key")
    return int(seed)


def _seeded(source: int | jax.Array) -> Mapping[str, Any]:
    """The first key of each stream of `nnx.Rngs(source)`."""
    keys = stream_keys(source, 2)
    if keys is None:
        return _streams(nnx.Rngs(source))
    return {"params": keys[0], "dropout": keys[1]}


def _streams(rngs: nnx.Rngs) -> dict[str, Any]:
    """A key for each stream, drawn from `rngs`; a missing "dropout" stream uses "params"."""
    known = set(dict(rngs.items()))
    if not known & {"params", "default"}:
        raise ValueError(
            f"`rngs` (with {sorted(known)}) must have the stream 'params' or 'default'"
        )
    dropout = "dropout" if {"dropout", "default"} & known else "params"
    return {"params": rngs.params(), "dropout": rngs[dropout]()}
