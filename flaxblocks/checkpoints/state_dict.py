"""Finding the state dict in what a training program saved, and its keys' own names.

Programs save more than weights: an epoch, an optimiser, averaged weights beside the raw ones. The
dict that holds the weights is known by its key; wrappers such as `DataParallel`, `torch.compile`
and `AveragedModel` leave a prefix on every name within it.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_names import Inert
from flaxblocks.checkpoints.torch_tensor import Tensor

__all__ = ["find_mapping", "find_state_dict", "without_prefixes"]

RAW_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "params", "weights")
EMA_KEYS = ("state_dict_ema", "model_ema", "params_ema")
PREFIXES = ("module.", "_orig_mod.")
AVERAGING_COUNT = "n_averaged"

Value = TypeVar("Value")


def find_state_dict(saved: object, *, prefer_ema: bool = False) -> dict[str, Tensor]:
    """The tensors of the state dict in an unpickled checkpoint, by their names in the file.

    Args:
        saved: the unpickled object: a state dict, or a dict that has one under one of `RAW_KEYS` or
            `EMA_KEYS`, possibly wrapped twice. What else there is, is left out.
        prefer_ema: where both are there, take the averaged weights instead of the raw ones.

    Raises: CheckpointError saying what the file does hold, if there is no state dict.
    """
    keys = EMA_KEYS + RAW_KEYS if prefer_ema else RAW_KEYS + EMA_KEYS
    holder = _search(saved, keys, lambda value: isinstance(value, Tensor))
    if holder is None:
        raise CheckpointError(f"holds no state dict: it is {_described(saved)}")
    found = {name: value for name, value in holder.items() if isinstance(value, Tensor)}
    for name in found:
        if not isinstance(name, str):
            raise CheckpointError(f"holds a state dict with a key of type {_kind(name)}, not str")
    return found


def find_mapping(saved: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The same search in a checkpoint that is in memory already, of arrays or torch's tensors; what
    holds no state dict is given back for its entries to be named.
    """
    found = _search(saved, RAW_KEYS + EMA_KEYS, lambda value: hasattr(value, "shape"))
    return saved if found is None else found


def without_prefixes(entries: Mapping[str, Value]) -> dict[str, Value]:
    """Take off `module.` and `_orig_mod.`, in any nesting, where every key has them.

    The count of averaged models that `AveragedModel` keeps beside its `module.` is dropped.
    """
    entries = dict(entries)
    while True:
        names = [name for name in entries if name != AVERAGING_COUNT]
        prefix = next((p for p in PREFIXES if all(n.startswith(p) and n != p for n in names)), None)
        if prefix is None or not names:
            return entries
        entries = {name.removeprefix(prefix): entries[name] for name in names}


def _search(
    saved: object, keys: tuple[str, ...], is_tensor: Callable[[object], bool], depth: int = 2
) -> Mapping[Any, Any] | None:
    """The first mapping under one of `keys`, at most `depth` wrappers deep, that holds a tensor."""
    if not isinstance(saved, Mapping):
        return None
    if depth > 0:
        for key in keys:
            inner = _search(saved.get(key), keys, is_tensor, depth - 1)
            if inner is not None:
                return inner
    return saved if any(map(is_tensor, saved.values())) else None


def _described(saved: object) -> str:
    """What an unpickled object is, in a few words and without its values."""
    if isinstance(saved, dict):
        shown = [f"{_name(key)} ({_kind(value)})" for key, value in list(saved.items())[:8]]
        more = f" and {len(saved) - 8} more" if len(saved) > 8 else ""
        return f"a dict of {', '.join(shown)}{more}" if shown else "an empty dict"
    return f"a {_kind(saved)}"


def _name(key: object) -> str:
    return quoted(key, 40) if isinstance(key, str) else _kind(key)


def _kind(value: object) -> str:
    if isinstance(value, Inert):
        return value.name
    if isinstance(value, dict):
        tensors = sum(isinstance(inner, Tensor) for inner in value.values())
        return f"dict with {tensors} tensors" if tensors else "dict"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__.lower()
