"""Model settings given on the command line, checked against the types of the model's arguments.

The values come from outside Python, where no type checker sees them: unchecked, a number in place
of a list would fail somewhere inside the model.
"""

import json
import math
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flaxblocks.models.registry import ModelEntry, suggest

__all__ = ["read_settings", "read_size"]

OPTIONS = ("num_classes", "in_channels")  # that have a word of their own
ELSEWHERE = (*OPTIONS, "dtype", "param_dtype", "rngs", "return")
WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a name",
    type(None): "null",
}

# Descriptions of arguments that no text can set: those that take a function or a table of rows.
NO_TEXT = ("", WORDS[type(None)])


def read_settings(entry: ModelEntry, settings: Sequence[str]) -> dict[str, Any]:
    """Parse settings such as `["dropout=0.1", "norm_layer=group_norm"]` into model arguments.

    Args:
        entry: the model's registry row.
        settings: each `NAME=VALUE`; VALUE is JSON or a bare word.

    Raises: ValueError for a setting that has no `=`, is given twice, is unknown, or has the wrong
        type.
    """
    hints = get_type_hints(entry.build.__init__)
    known = [
        name
        for name, hint in hints.items()
        if name not in ELSEWHERE and _describe(hint) not in NO_TEXT
    ]
    config: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} must be NAME=VALUE")
        if name in OPTIONS:
            raise ValueError(f"--set {setting!r}: use --{name.replace('_', '-')} {text}")
        if name not in known:
            hint = _option_near(name, known) or suggest(name, known)
            raise ValueError(f"{entry.name} has no setting {name!r}{hint}")
        if name in config:
            raise ValueError(f"setting {name!r} is given twice: {config[name]!r} and {text!r}")
        value = _parse(text)
        if not _fits(value, hints[name]):
            raise ValueError(f"`{name}` (={text}) must be {_describe(hints[name])}")
        config[name] = value
    return config


def _option_near(name: str, known: Sequence[str]) -> str:
    """`: did you mean --num-classes?`, where that is the nearest."""
    near = get_close_matches(name, [*OPTIONS, *known], n=1, cutoff=0.8)
    return f": did you mean --{near[0].replace('_', '-')}?" if set(near) & set(OPTIONS) else ""


def read_size(text: str) -> tuple[int, int]:
    """Parse `"224"` or `"160x224"` as (height, width). Raises: ValueError for anything else."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ValueError(f"--size {text!r} must be a size in pixels, such as 224 or 160x224")
    return int(sides[0]), int(sides[-1])


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Sequence, tuple):
        items = _items(hint, value)
        return (
            isinstance(value, list) and len(items) == len(value) and all(map(_fits, value, items))
        )
    if hint is float:
        return _is_number(value) and math.isfinite(value)
    if hint is int:
        return _is_number(value) and isinstance(value, int)
    return hint in WORDS and isinstance(value, hint)


def _items(hint: Any, value: Any) -> list[Any]:
    """The type of each item of a list; `Sequence[int]` and `tuple[int, ...]` allow any length."""
    first, *rest = get_args(hint)
    if rest and rest != [...]:
        return [first, *rest]
    return [first] * (len(value) if isinstance(value, list) else 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(hint: Any) -> str:
    """The rule in words, without alternatives that no text can express, such as a function."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(filter(None, map(_describe, get_args(hint))))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Sequence, tuple):
        kinds = " and ".join(filter(None, map(_describe, _items(hint, None))))
        if not kinds:
            return ""
        return f"a list ({'each item ' if len(_items(hint, None)) == 1 else ''}{kinds})"
    words: Mapping[Any, str] = WORDS
    return words.get(hint, "")
