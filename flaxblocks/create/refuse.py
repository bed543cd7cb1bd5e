"""What is said of a checkpoint that does not fit; a way on is tried before it is named."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fit import ConversionError, account
from flaxblocks.create.heads import is_headlike
from flaxblocks.create.lookalike import looks_like
from flaxblocks.create.match import Match, match
from flaxblocks.create.places import Choice
from flaxblocks.create.wrong_numbers import fitting_numbers
from flaxblocks.models.registry import ModelEntry

__all__ = ["check"]

Arrays = Mapping[str, np.ndarray]
# Settings that change a network's shapes, and the values that published checkpoints have.
TRIED: Mapping[str, Sequence[Any]] = {
    "width_mult": (0.25, 0.5, 0.75, 1.0, 0.35, 0.1, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.3, 1.4, 2.0),
    "stem": ("3x3",),
}
MOST_OWNERS = 3  # of what a hint proposes to drop


def check(
    found: Match,
    asked: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice | None = None,
    draws: bool = True,
) -> None:
    """Refuse a match that does not add up.

    Args:
        found: the match.
        asked: the row that was asked for, with `config`.
        config: the caller's arguments.
        contents: the checkpoint.
        choice: which network of it.
        draws: whether a head that the checkpoint has not can be drawn.

    Raises: ConversionError that names every fault and, where one was found, what would help.
    """
    choice = choice or Choice()
    faults = found.faults
    unsaid = config.get("num_classes") is None and found.config["num_classes"]
    headless = unsaid and found.head.kind in ("other", "absent")
    if faults.is_whole:
        if headless:
            raise ConversionError(f"{_without_head(found)}: {_ways_on(draws)}")
        return
    kind = type(found.model).__name__
    another = looks_like(found.place.arrays)
    hint = "" if another else _hint(found, asked, config, contents, choice, draws)
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
    """The body fits, and nothing says what comes after it."""
    lacking = " and ".join(found.head.keys)
    where = f", {found.place.name}," if found.place.prefix else ""
    elsewhere = " and ".join((*found.place.others, *found.place.copies))
    besides = f"; such a body lies {elsewhere} too (`prefix` chooses)" if elsewhere else ""
    in_place = found.head.names or [name for name in found.place.beside if is_headlike(name)]
    listed = ", ".join(in_place[:4]) + (" ..." if len(in_place) > 4 else "")
    other = f": it has another head, {listed}" if in_place else ""
    return f"the checkpoint{where} is one of {found.entry.name} without {lacking}{other}{besides}"


def _ways_on(draws: bool) -> str:
    """What to do without a head."""
    return "`num_classes=0` gives its features" + ", another number draws a head" * draws


def _hint(
    found: Match,
    asked: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice,
    draws: bool,
) -> str:
    """The first thing that helps, in words; "" if nothing does."""
    sentence = _known_form(found)
    if sentence:
        return f"; {sentence}"
    if found.head.kind == "part" and set(found.faults.missing) <= set(found.head.keys):
        return f"; {_ways_on(draws)}"
    numbers = fitting_numbers(found.model, found.faults)
    if numbers:
        return f" (a model built with {numbers} would fit)"

    def fits(change: Mapping[str, Any], drop: Sequence[str] = ()) -> bool:
        chosen = Choice(choice.key, choice.prefix, choice.ema, (*choice.drop, *drop))
        try:
            tried = match(asked, {**config, **change}, contents, chosen)
        except ValueError:
            return False
        return tried.faults.is_whole

    for setting, value in _settings(found, asked, config):
        if fits({setting: value}):
            return f" (a model built with {setting}={value!r} would fit)"
    drop = _owners(found)
    if drop and fits({}, drop):
        return f"; `drop={drop}` would leave out what is not the model's"
    return ""


def _settings(
    found: Match, asked: ModelEntry, config: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What to try: settings that the model has and the caller did not give."""
    for setting, values in TRIED.items():
        if setting in asked.arguments and setting not in config and not _is_strange(found):
            yield from ((setting, value) for value in values)


def _owners(found: Match) -> list[str]:
    """Of names that are too many, and nothing else is amiss: the modules that they belong to."""
    faults = found.faults
    if faults.missing or faults.misshaped:
        return []
    known = set(found.found.keys.by_foreign)
    owners = []
    for name in faults.unexpected:
        steps = name.split(".")
        heads = (".".join(steps[: i + 1]) for i in range(len(steps)))
        owner = next((h for h in heads if not any(key.startswith(f"{h}.") for key in known)), name)
        owners.append(found.place.prefix + owner)
    unique = list(dict.fromkeys(owners))
    return unique if len(unique) <= MOST_OWNERS else []


def _known_form(found: Match) -> str:
    """Where the names show what became of a network, what to do about it."""
    names = found.faults.unexpected
    if any(name.endswith(".weight_orig") for name in names) and any(
        name.endswith(".weight_mask") for name in names
    ):
        return (
            "its weights are pruned, each as `weight_orig` and `weight_mask`: "
            "`torch.nn.utils.prune.remove(module, 'weight')` makes one of the two before saving"
        )
    explain: Callable[[Arrays], str | None] | None = getattr(
        type(found.model), "what_a_checkpoint_is", None
    )
    return (explain(found.place.arrays) or "") if explain else ""
