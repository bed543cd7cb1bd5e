"""`create_model`: look a model up, build it, fetch its weights, load them."""

import os
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.convert.convert import as_arrays
from flaxblocks.convert.fit import RECOGNISERS
from flaxblocks.create.build import DEFAULT_CLASSES, build, build_loaded
from flaxblocks.create.host import built_on_host
from flaxblocks.create.lookalike import looks_like
from flaxblocks.create.origin import origin_of, remember
from flaxblocks.models import FeatureExtractor
from flaxblocks.models.registry import ModelEntry, find_model
from flaxblocks.nn.arguments import is_integer

__all__ = ["create_model", "published_weights", "resolve_weights"]

Weights = str | os.PathLike[str] | Mapping[str, Any] | Enum | None
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")

RECOGNISERS.append(looks_like)


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
    **config: Any,
) -> Any:
    """Build a registered model, in training mode as PyTorch and Flax do; call `model.eval()` for
    inference.

    Args:
        name: a name of torchvision or timm; `list_models()` has them all.
        weights: None for random ones; a checkpoint file; a mapping of PyTorch's keys to arrays or
            tensors; or the name of published weights ("IMAGENET1K_V2", "DEFAULT", "ra_in1k"),
            downloaded once; torchvision's enums are such names too.
        num_classes: logits; 0 for pooled features. None is as many as the weights have, without
            weights 1000. Where the weights have another number, or no head, only the head is drawn.
        in_channels: channels of the image. Where the weights are for RGB, the first convolution is
            adapted as timm does it: summed for 1 channel, repeated and scaled for others.
        features_only: give the feature maps at each reduction, not logits.
        out_indices: which maps (with `features_only`), as indices into `feature_info`; all unless
            given.
        dtype: of the computation, such as `jnp.bfloat16`; None takes the widest of input and
            parameters.
        param_dtype: of the parameters and running statistics.
        rngs: `nnx.Rngs`, a seed or a JAX random key.
        **config: further arguments of the model's class, such as `width_mult`.

    Returns: an `ImageModel`, `(N, H, W, in_channels)` to `(N, num_classes)`; or a
        `FeatureExtractor`.

    Raises:
        ValueError: an unknown name, weight name or argument (near ones are suggested), or one out
            of range.
        CheckpointError: the weights cannot be read.
        ConversionError: the weights are not this model's.
    """
    entry = find_model(name)
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
    arrays = None if weights is None else as_arrays(resolve_weights(name, weights))
    make = partial(_make, entry, {"num_classes": num_classes, **config}, arrays)
    model = built_on_host(make, source)
    if not features_only:
        return model
    extractor = FeatureExtractor(model, out_indices)
    remember(extractor, row=origin_of(model).row, layout=origin_of(model).layout)
    return extractor


def _make(
    entry: ModelEntry,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None,
    source: Mapping[str, Any] | int | jax.Array,
) -> Any:
    """The module, from a checkpoint if there is one; `source` is a key for each stream, or a seed
    or key that they come from.
    """
    keys = source if isinstance(source, Mapping) else _streams(nnx.Rngs(source))
    if arrays is None:
        return build(entry, config, keys)
    return build_loaded(entry, config, keys, arrays)


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


def _streams(rngs: nnx.Rngs) -> dict[str, Any]:
    """A key for each stream, drawn from `rngs`; a stream that it has not is `params`'s."""
    known = set(dict(rngs.items()))
    if not known & {"params", "default"}:
        raise ValueError(
            f"`rngs` (with {sorted(known)}) must have the stream 'params' or 'default'"
        )
    dropout = "dropout" if {"dropout", "default"} & known else "params"
    return {"params": rngs.params(), "dropout": rngs[dropout]()}


def published_weights(name: str, weights: Any) -> Any:
    """The `WeightEntry` of model `name` that `weights` names; None where it is a path or a mapping.

    Raises: ValueError if there is neither a file nor published weights of that name.
    """
    if type(weights).__name__.endswith("_Weights"):  # torchvision's `ResNet50_Weights.DEFAULT`
        weights = str(weights)
    if isinstance(weights, bool):
        raise ValueError(f'`weights` (={weights}): did you mean "DEFAULT"?')
    if not isinstance(weights, str) or os.path.exists(weights):
        return None
    if os.sep in weights or weights.endswith(CHECKPOINT_SUFFIXES):
        return None  # the reader says that it is missing
    from flaxblocks.weights import find_weights

    try:
        return find_weights(name, weights)
    except ValueError as error:
        raise ValueError(
            f"`weights` (={weights!r}) is no file, and no published weights: {error}"
        ) from None


def resolve_weights(name: str, weights: Any) -> Any:
    """The downloaded file of published weights of model `name`; a path or a mapping as it is.

    Raises: ValueError if there is neither a file nor published weights of that name.
    """
    entry = published_weights(name, weights)
    if entry is None:
        return weights
    from flaxblocks.weights import fetch_weights

    return fetch_weights(entry, progress=sys.stderr.isatty())
