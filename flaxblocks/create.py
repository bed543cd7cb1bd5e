"""`create_model`: look a model up, build it, fetch its weights, load them."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.convert.convert import LOADED_FROM, as_arrays, load_torch, own_dialect
from flaxblocks.convert.fit import closest, fit
from flaxblocks.convert.keymap import NATIVE, dialects_of
from flaxblocks.models import FeatureExtractor
from flaxblocks.nn.arguments import is_integer
from flaxblocks.registry import ModelEntry, find_model, suggest

__all__ = ["abstract_model", "create_model", "head_classes", "published_weights", "resolve_weights"]

Weights = str | os.PathLike[str] | Mapping[str, Any] | None
DEFAULT_CLASSES = 1000
PRETRAINED = ': did you mean weights="DEFAULT"?'
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")


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
            downloaded once.
        num_classes: logits; 0 for pooled features. None is as many as the weights have, without
            weights 1000. Where the weights have another number, only the head is drawn anew.
        in_channels: channels of the image.
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
    keys = _streams(rngs)
    num_classes = int(num_classes) if is_integer(num_classes) else num_classes  # NumPy's too
    config = {"in_channels": in_channels, "dtype": dtype, "param_dtype": param_dtype, **config}
    if out_indices is not None and not features_only:
        raise ValueError(f"`out_indices` (={out_indices}) needs `features_only=True`")
    if weights is None:
        model = _build(
            entry,
            {"num_classes": DEFAULT_CLASSES if num_classes is None else num_classes, **config},
            keys,
        )
    else:
        arrays = as_arrays(resolve_weights(name, weights))
        model = _build_loaded(entry, {"num_classes": num_classes, **config}, keys, arrays)
    if not features_only:
        return model
    extractor = FeatureExtractor(model, out_indices)
    setattr(extractor, LOADED_FROM, own_dialect(model))
    return extractor


def abstract_model(name: str, **config: Any):
    """The model without memory: shapes and dtypes in place of arrays, as `nnx.eval_shape` gives it.

    Raises: ValueError as `create_model`.
    """
    return nnx.eval_shape(partial(_build, find_model(name), config, {"params": 0, "dropout": 0}))


def _streams(rngs: Any) -> dict[str, Any]:
    """A key for each stream, drawn from `rngs`; a stream that it has not is `params`'s."""
    if not isinstance(rngs, nnx.Rngs):
        is_key = isinstance(rngs, jax.Array)
        if not (is_key or is_integer(rngs)):
            raise ValueError(f"`rngs` (={rngs!r}) must be `nnx.Rngs`, a seed or a JAX random key")
        rngs = nnx.Rngs(rngs if is_key else int(rngs))
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


def _build(entry: ModelEntry, config: Mapping[str, Any], keys: Mapping[str, Any]) -> Any:
    known = [
        name
        for name in inspect.signature(entry.build.__init__).parameters
        if name not in ("self", "rngs")
    ]
    for argument in config:
        if argument not in known:
            hint = PRETRAINED if argument == "pretrained" else suggest(argument, known)
            raise ValueError(f"{entry.name} takes no argument `{argument}`{hint}")
    model = entry.build(**{**entry.config, **config}, rngs=nnx.Rngs(**keys))
    if entry.dialect in dialects_of(model):
        setattr(model, LOADED_FROM, entry.dialect)
    return model


def head_classes(
    entry: ModelEntry, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> int | None:
    """How many classes a checkpoint of this model has; None where it has no head, or is no
    checkpoint of it.
    """
    return _head(entry, config, arrays)[1]


def _head(
    entry: ModelEntry, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[list[str], int | None, str]:
    """The head's keys in the checkpoint's dialect, its number of classes, and that dialect."""
    keys = closest(abstract_model(entry.name, **{**config, "num_classes": 1}), arrays).keys
    head = {item.native: item.foreign for item in keys.entries if item.native.startswith("head.")}
    kernel = arrays.get(head.get("head.kernel", ""))
    classes = None if kernel is None else kernel.shape[-1 if keys.dialect == NATIVE else 0]
    return list(head.values()), classes, keys.dialect


def _build_loaded(
    entry: ModelEntry,
    config: dict[str, Any],
    keys: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
):
    """Build without drawing, fill from `arrays`, and draw only what they leave: a head of another
    width.
    """
    head, classes_there, dialect = _head(entry, config, arrays)
    if config["num_classes"] is None:
        config = {**config, "num_classes": classes_there or DEFAULT_CLASSES}
    build = partial(_build, entry, config, keys)
    model = nnx.eval_shape(build)
    if classes_there in (None, config["num_classes"]):
        load_torch(model, arrays)
    else:
        body = {key: array for key, array in arrays.items() if key not in head}
        fit(
            abstract_model(entry.name, **{**config, "num_classes": 0}), body
        )  # all but the head must still add up
        load_torch(model, body, dialect, strict=False)
    _draw_the_rest(model, build)
    return model


def _draw_the_rest(model: nnx.Module, build: Callable[[], nnx.Module]) -> None:
    """Give the variables that are still abstract the values that building would have given them."""
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    empty = [
        path
        for path, variable in flat.items()
        if isinstance(variable.get_value(), jax.ShapeDtypeStruct)
    ]
    if not empty:
        return

    @jax.jit
    def draw():
        drawn = dict(nnx.to_flat_state(nnx.state(build())))
        return {path: drawn[path].get_value() for path in empty}

    variables = {
        path: variable
        for path, variable in nnx.iter_graph(model)
        if isinstance(variable, nnx.Variable)
    }
    for path, value in draw().items():
        variables[path].set_value(value)
