"""The registry of models: a row of data for each name, and how names are found."""

import difflib
import fnmatch
import inspect
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxblocks.models.argument_names import library_names

__all__ = [
    "ModelEntry",
    "Source",
    "find_model",
    "list_models",
    "model_entries",
    "register",
    "suggest",
]

UNSEEN = ("norm_eps", "padding", "stride_in", "gates_first")
Source = Literal["torchvision", "timm", "official", "article"]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One row of the registry.

    Attributes:
        name: torchvision's name where torchvision has the model, else timm's.
        build: the model's class, called with `config`, `num_classes`, `in_channels`, `dtype`,
            `param_dtype` and `rngs`.
        source: who published the model, and thereby the layout that `to_torch` writes by default.
        config: the arguments of `build` that make it this model.
        aliases: other names of the same row, such as timm's for a network of torchvision's.
        in_layout: layout -> the row to build for a checkpoint in that layout, if the library of
            that layout publishes the network with other settings, such as another epsilon.
        library_name: the library's name of the model, if that is not `name`.
        oracle: "module:callable" that builds the PyTorch original from `num_classes`, `in_channels`
            and the model's own arguments; None if torchvision or timm have the model.
        parameters: published count of trainable parameters at 1000 classes, or None.
        multiply_adds: published count for one image of `input_size`, or None.
        input_size: (height, width) of that image.
    """

    name: str
    build: type[Any]
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    in_layout: Mapping[str, str] = field(default_factory=dict)
    library_name: str | None = None
    oracle: str | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    input_size: tuple[int, int] = (224, 224)

    @property
    def layout(self) -> str:
        """The layout of its published checkpoints, one of its class's `layouts`."""
        return self.source

    @property
    def oracle_arguments(self) -> dict[str, str]:
        """Our name -> the oracle's, where an argument of the model has another there."""
        return library_names(self.source, self.arguments)

    @property
    def arguments(self) -> list[str]:
        """The names of the arguments of the model's class, without `rngs`."""
        parameters = inspect.signature(self.build.__init__).parameters
        return [name for name in parameters if name not in ("self", "rngs")]

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the arguments in `UNSEEN`, which change results but leave no trace in a
        checkpoint.
        """
        parameters = inspect.signature(self.build.__init__).parameters
        own = {name: parameters[name].default for name in UNSEEN if name in parameters}
        return {name: self.config.get(name, default) for name, default in own.items()}


_entries: dict[str, ModelEntry] = {}
_names: dict[str, ModelEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a row. Raises: ValueError if its name or an alias is taken."""
    for name in (entry.name, *entry.aliases):
        if name in _names:
            raise ValueError(f"model name {name!r} is taken by {_names[name].name!r}")
    _entries[entry.name] = entry
    _names.update(dict.fromkeys((entry.name, *entry.aliases), entry))


def model_entries() -> list[ModelEntry]:
    """Every row, sorted by name."""
    return [_entries[name] for name in sorted(_entries)]


def list_models(pattern: str = "*") -> list[str]:
    """The names, aliases included, that match an `fnmatch` pattern such as "mobilenet*"; sorted.

    Raises: ValueError if `pattern` is not a str.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"`pattern` (={pattern!r}) must be a str, such as 'mobilenet*'")
    return sorted(fnmatch.filter(_names, pattern))


def find_model(name: str) -> ModelEntry:
    """The row of that name or alias. Raises: ValueError with near names for an unknown one."""
    if not isinstance(name, str):
        shown, kind = " ".join(reprlib.repr(name).split()), type(name).__name__
        raise ValueError(
            f"unknown model {shown}: `name` (a {kind}) must be one of `list_models()`, a str"
        )
    if name in _names:
        return _names[name]
    model, _, tag = name.rpartition("/")[2].partition(".")  # timm's `hf-hub:timm/model.tag`
    if model in _names:
        hint = f": did you mean {model!r}" + (f" with weights={tag!r}?" if tag else "?")
    else:
        hint = suggest(name, _names)
    raise ValueError(f"unknown model {name!r}{hint}")


def suggest(word: str, known: Mapping[str, object] | list[str]) -> str:
    """`: did you mean 'x' or 'y'?`, with names that begin with `word` or are spelt like it.

    If there are none, it lists the known ones.
    """
    word = str(word)
    longer = sorted(name for name in known if word and name.startswith(word))
    alike = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    near = list(dict.fromkeys([*longer, *alike]))[:3]
    if not near:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        return f": the known ones are {', '.join(sorted(known)[:20])}{more}"
    return f": did you mean {' or '.join(map(repr, near))}?"
