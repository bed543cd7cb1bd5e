"""Look-up of published weights.

The data are in this folder: one JSON file per family, written by `tools/make_weights_data.py`, and
one `categories_*.json` per data set. A new family is a new file and needs no change here. Nothing
is read before the first look-up.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from flaxblocks.weights.preprocess import Transforms

__all__ = ["WeightEntry", "find_weights", "list_weights"]

_CATEGORIES = "categories_"


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """One published set of weights.

    Attributes:
        model: The model's name in the library: `mobilenet_v2`, `mobilenetv2_100`.
        tag: The name of this set among the model's sets: `IMAGENET1K_V2`, `ra_in1k`.
        source: The library that publishes the set, and hence the layout of its keys: `torchvision`
            or `timm`.
        url: The address of the file; None if only the hub has it.
        hub_id: The Hugging Face hub repository that has it as `model.safetensors`; None if there is
            none.
        file_name: The file's name in the cache folder.
        sha256_prefix: The first hexadecimal digits of the file's sha256; None if not published.
        transforms: The preprocessing for evaluation.
        num_params: Number of trainable parameters of the model.
        num_classes: Number of classes.
        categories: The names of the classes in the order of the logits; empty if not known.
        metrics: `acc@1` and `acc@5` on ImageNet-1K in percent; empty if the library publishes none.
        license: The identifier of the license; None if the library names none.
        recipe_url: The address of the training recipe; None if not published.
        docs_url: The address of the documentation; None if there is none.
        default: Whether it is the model's default set.
    """

    model: str
    tag: str
    source: str
    url: str | None
    hub_id: str | None
    file_name: str
    sha256_prefix: str | None
    transforms: Transforms
    num_params: int
    num_classes: int
    categories: tuple[str, ...] = field(repr=False)
    metrics: Mapping[str, float] = field(hash=False)
    license: str | None
    recipe_url: str | None
    docs_url: str | None
    default: bool

    def __post_init__(self) -> None:
        """Check that the file has a source, and a name that is not outside the cache folder."""
        if self.url is None and self.hub_id is None:
            raise ValueError(f"weights {self.name!r} must have a `url` or a `hub_id`")
        if self.file_name in ("", ".", "..") or {"/", "\\"} & set(self.file_name):
            raise ValueError(
                f"`file_name` (={self.file_name!r}) must be a file name without a folder"
            )

    @property
    def name(self) -> str:
        """The model and the tag in timm's notation: `mobilenetv2_100.ra_in1k`."""
        return f"{self.model}.{self.tag}"


def list_weights(model: str | None = None) -> list[WeightEntry]:
    """The published weights of one model, or of all models.

    Args:
        model: A model's name in torchvision or timm; if both have the same network, either name
            finds the weights of both. None for all models.

    Returns: The entries: first those under the given name, then those under other names of the
        network; torchvision's before timm's, the default before the others. Empty if the model has
        none.
    """
    rows = [row for family in _families() for row in family["entries"]]
    if model is None:
        return [_entry(row) for row in rows]
    names = _names_of_network(model)
    rows = [row for row in rows if row["model"] in names]
    rows.sort(
        key=lambda row: (
            names.index(row["model"]),
            row["source"] != "torchvision",
            not row["default"],
        )
    )
    return [_entry(row) for row in rows]


def find_weights(model: str, tag: str) -> WeightEntry:
    """Look up one published set of weights.

    Args:
        model: A model's name in torchvision or timm, as in `list_weights`.
        tag: A tag (`IMAGENET1K_V2`, `ra_in1k`), `DEFAULT`, or a full name in the notation of either
            library (`mobilenetv2_100.ra_in1k`, `MobileNet_V2_Weights.IMAGENET1K_V2`).

    Returns: The entry.
    Raises: ValueError if the model has no weights, or none with that tag; the message lists the
        existing ones, the most similar first.
    """
    entries = list_weights(model)
    if not entries:
        published = {entry.model for entry in list_weights()}
        near = ", ".join(repr(name) for name in _nearest(model, published)[:5])
        raise ValueError(
            f"`model` (={model!r}) has no published weights; "
            f"models that have some, nearest first: {near}"
        )
    prefix, _, bare = str(tag).rpartition(".")
    prefix = prefix.removesuffix("_Weights").lower()
    names = _names_of_network(model)
    if prefix and prefix not in (name.lower() for name in names):
        raise ValueError(f"`tag` (={tag!r}) must be of the model {model!r}, not of {prefix!r}")
    if prefix:
        entries = [entry for entry in entries if entry.model.lower() == prefix] or entries
    for entry in entries:
        if bare == entry.tag or (bare == "DEFAULT" and entry.default):
            return entry
    tags = ", ".join(repr(near) for near in _nearest(bare, [entry.tag for entry in entries]))
    raise ValueError(
        f"`tag` (={tag!r}) must be a tag of the model {model!r}: "
        f"'DEFAULT' or, nearest first, {tags}"
    )


def _nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """`candidates`, sorted by similarity to `word` regardless of case."""

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), candidate.lower()).ratio()

    return sorted(
        dict.fromkeys(candidates), key=lambda candidate: (-likeness(candidate), candidate)
    )


@functools.cache
def _families() -> tuple[dict[str, Any], ...]:
    """The parsed files of all families."""
    files = sorted(resources.files("flaxblocks.weights").iterdir(), key=lambda file: file.name)
    return tuple(
        json.loads(file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".json") and not file.name.startswith(_CATEGORIES)
    )


@functools.cache
def _read_categories(name: str) -> tuple[str, ...]:
    file = resources.files("flaxblocks.weights") / f"{_CATEGORIES}{name}.json"
    return tuple(json.loads(file.read_text(encoding="utf-8")))


def _names_of_network(model: str) -> tuple[str, ...]:
    """`model`, followed by the names of the same network in the other library."""
    aliases: dict[str, str] = {}
    for family in _families():
        aliases |= family["aliases"]
    torchvision_name = aliases.get(model, model)
    timm_names = [name for name, target in aliases.items() if target == torchvision_name]
    return tuple(dict.fromkeys([model, torchvision_name, *timm_names]))


def _entry(row: dict[str, Any]) -> WeightEntry:
    """One row of a family's file as an entry."""
    transforms: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in row["transforms"].items()
    }
    categories = () if row["categories"] is None else _read_categories(row["categories"])
    fields = {
        **row,
        "transforms": Transforms(**transforms),
        "categories": categories,
        "metrics": dict(row["metrics"]),
    }
    return WeightEntry(**fields)
