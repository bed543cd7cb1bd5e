"""The error for a checkpoint that does not fit. A remedy is tried before it is suggested."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fit import ConversionError, Fit, account
from flaxblocks.convert.keymap import KeyMap, layouts_of
from flaxblocks.create.forms import form_of
from flaxblocks.create.head_names import body_of, is_headlike, is_of_head
from flaxblocks.create.lookalike import looks_like
from flaxblocks.create.match import Match, match, unread_by
from flaxblocks.create.places import Choice, Place
from flaxblocks.create.wrong_numbers import fitting_numbers
from flaxblocks.models import FeatureExtractor
from flaxblocks.models.registry import ModelEntry

__all__ = ["WithoutHead", "check", "what_to_drop"]

# For a checkpoint without a head: a new one is drawn, the model has none, or it must have one.
WithoutHead = Literal["draw", "leave", "refuse"]
WAYS_ON: Mapping[WithoutHead, str] = {
    "draw": "`num_classes=0` returns its features, another number draws a new head",
    "leave": "`num_classes=0` returns its features",
    "refuse": "without a head there are no classes",
}
DROPS = " would leave out what is not the model's"
# Settings that change a network's shapes, with the values of published checkpoints.
TRIED: Mapping[str, Sequence[Any]] = {
    "width_mult": (0.25, 0.5, 0.75, 1.0, 0.35, 0.1, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.3, 1.4, 2.0),
    "stem": ("3x3",),
}
MOST_OWNERS = 8  # in a `drop` that a hint suggests
FEW_IN_COMMON = 0.1  # a checkpoint with at most this share of a model's names is another network's


def check(
    found: Match,
    asked: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice | None = None,
    without_head: WithoutHead = "draw",
) -> None:
    """Refuse a match that does not fit.

    Args:
        found: the match.
        asked: the requested row.
        config: the caller's arguments.
        contents: the checkpoint.
        choice: which network of the checkpoint was taken.
        without_head: what is done for a checkpoint without a head.

    Raises: ConversionError that lists every fault and, if one was found, a remedy.
    """
    choice = choice or Choice()
    faults = found.faults
    unsaid = config.get("num_classes") is None and found.config["num_classes"]
    headless = unsaid and found.head.kind in ("other", "absent")
    if faults.is_whole:
        if headless:
            raise ConversionError(f"{_without_head(found)}: {WAYS_ON[without_head]}")
        return
    kind = type(found.model).__name__
    another = looks_like(found.place.arrays)
    hint = "" if another else _hint(found, asked, config, contents, choice, without_head)
    if headless and hint.endswith((" would fit)", DROPS)):
        hint += f"; then {WAYS_ON[without_head]}"
    account(
        faults,
        found.arrays,
        f"{kind} in layout {found.layout!r}, the nearest",
        besides=f"is one of {another} and " if another else "",
        hint=f"; it is one of {another}" if another and _is_strange(found) else hint,
    )


def _is_strange(found: Match) -> bool:
    return len(found.found.unexpected) == len(found.arrays)


def _without_head(found: Match) -> str:
    """The message for a checkpoint whose body fits, but not its head."""
    lacking = " and ".join(found.head.keys)
    where = f", {found.place.name}," if found.place.prefix else ""
    elsewhere = " and ".join((*found.place.others, *found.place.copies))
    besides = f"; such a body is {elsewhere} too (select with `prefix`)" if elsewhere else ""
    in_place = found.head.names or [name for name in found.place.beside if is_headlike(name)]
    listed = ", ".join(in_place[:4]) + (" ..." if len(in_place) > 4 else "")
    other = f": it has another head, {listed}" if in_place else ""
    return f"the checkpoint{where} is one of {found.entry.name} without {lacking}{other}{besides}"


def _hint(
    found: Match,
    asked: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice,
    without_head: WithoutHead,
) -> str:
    """A sentence with the first remedy that works; "" if there is none."""
    form = form_of(found.model, found.faults, found.place.arrays)
    if form is not None and not form.drop:
        return f"; {form.sentence}"
    if found.head.kind == "part" and set(found.faults.missing) <= set(found.head.keys):
        return f"; {WAYS_ON[without_head]}"
    numbers = fitting_numbers(found.model, found.faults)
    if numbers:
        return f" (a model built with {numbers} would fit)"

    def fits(change: Mapping[str, Any], drop: Sequence[str] = ()) -> bool:
        layout = None if "stem" in change else found.layout  # a stem may have layouts of its own
        chosen = Choice(choice.key, choice.prefix, choice.ema, (*choice.drop, *drop))
        settings = {"num_classes": found.config["num_classes"], **config, **change}
        try:
            tried = match(asked, settings, contents, chosen, layout=layout)
        except ValueError:
            return False
        return tried.faults.is_whole

    if form is not None and fits({}, form.drop):
        return f"; {form.sentence}"
    for setting, value in _settings(found, asked, config):
        if fits({setting: value}):
            return f" (a model built with {setting}={value!r} would fit)"
    if without_head == "draw" and _suffices_for_maps(found):
        return "; `features_only=True` returns its feature maps, which need no more layers"
    drop = what_to_drop(found.faults, found.place)
    if drop and fits({}, drop):
        return f"; `drop={drop}`{DROPS}"
    return _of_another_network(found)


def _settings(
    found: Match, asked: ModelEntry, config: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Values to try, for settings that the model has and the caller did not give."""
    for setting, values in TRIED.items():
        if setting in asked.arguments and setting not in config and not _is_strange(found):
            yield from ((setting, value) for value in values)


def what_to_drop(faults: Fit, place: Place) -> list[str]:
    """The modules to drop if unexpected names are the only fault, by their names in the state dict.

    There are none if one of them is in the body, which would compute something else without it.
    """
    if faults.missing or faults.misshaped:
        return []
    body = body_of(faults.keys)
    owners = dict.fromkeys(_owner(name, faults.keys) for name in faults.unexpected)
    if len(owners) > MOST_OWNERS or any("." in o and not is_of_head(o, body) for o in owners):
        return []
    return [place.own_name(owner) for owner in owners]


def _owner(name: str, keys: KeyMap) -> str:
    """The outermost module in the path of a name that the layout does not have; else the name."""
    steps = name.split(".")
    outer = (".".join(steps[: i + 1]) for i in range(len(steps)))
    return next((o for o in outer if not any(k.startswith(f"{o}.") for k in keys.by_foreign)), name)


def _suffices_for_maps(found: Match) -> bool:
    """Whether the only fault is missing layers after the last feature map."""
    faults, known = found.faults, found.found.keys.by_foreign
    if faults.unexpected or faults.misshaped or not faults.missing:
        return False
    return {known[key].native for key in faults.missing} <= unread_by(found, FeatureExtractor)


def _of_another_network(found: Match) -> str:
    """A sentence for a checkpoint with hardly any of the model's names; "" for any other."""
    known = found.found.keys.by_foreign
    common = sum(name in found.place.arrays for name in known)
    if common > FEW_IN_COMMON * len(known) or not found.found.unexpected:
        return ""
    layouts = ", ".join(map(repr, layouts_of(found.model)))
    return (
        f"; it is of another network, or in none of the layouts {layouts}: to rename its keys, "
        "read it with `read_checkpoint`"
    )
