"""The report of loading a checkpoint: what was taken from it, and what was left out."""

from collections.abc import Iterable
from dataclasses import dataclass

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fill import Cast
from flaxblocks.create.places import Place

__all__ = ["LoadReport", "grouped", "left_of"]

MOST_WORDS = 20  # in the list of what was left out


@dataclass(frozen=True)
class LoadReport:
    """What `load_torch` or `create_model` did.

    Attributes:
        layout: the layout of the source.
        loaded: number of variables filled from the source.
        missing: keys that the source lacked (with `strict=False`); their variables are unchanged.
        unexpected: keys of the source that were not used (with `strict=False`).
        uncounted: batch counts that the source lacked, as before PyTorch 0.4.1; they are now 0.
        cast: (key, dtype in the source, dtype of the variable) for each variable with another
            dtype; a batch count is listed only if the cast changed its value.
        taken: where in the source the network was found, such as "`model_ema`"; "" for the whole of
            a plain state dict.
        others: where other networks with the same names but different numbers were found; `key`,
            `prefix` and `ema` select one of them.
        head: note on a head that was drawn or has another name in the source; else "".
        settings: note on what the checkpoint's `config.json` or layout determined of the model; ""
            if it determined nothing.
        doubt: note on another model with the same names, if nothing tells the two apart; else "".
        left: names of everything else in the source, such as another head, a loss or an optimiser.
    """

    layout: str
    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    cast: tuple[Cast, ...] = ()
    taken: str = ""
    others: tuple[str, ...] = ()
    head: str = ""
    settings: str = ""
    doubt: str = ""
    left: tuple[str, ...] = ()

    @property
    def dialect(self) -> str:
        """An older name of `layout`."""
        return self.layout

    def __str__(self) -> str:
        """One line: `314 variables loaded in layout 'torchvision'`, followed by any notes."""
        extras = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "batch counts set to 0": self.uncounted,
            "cast to another dtype": self.cast,
        }
        notes = [f"{len(names)} {what}" for what, names in extras.items() if names]
        first = f"{self.loaded} variables loaded in layout {self.layout!r}"
        return ", ".join([first, *notes, *self.said])

    @property
    def said(self) -> tuple[str, ...]:
        """A phrase for each note on what was taken and left out; none for a plain state dict."""
        phrases = [
            f"taken: {self.taken}" if self.taken else "",
            f"not taken: {', '.join(self.others)}" if self.others else "",
            self.head,
            self.settings,
            self.doubt,
            f"left: {_listed(grouped(self.left))}" if self.left else "",
        ]
        return tuple(filter(None, phrases))


def grouped(names: Iterable[str]) -> list[str]:
    """Names grouped by their first component, with counts: `fc.* (4)`, `criterion.weight`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [
        members[0] if len(members) == 1 else f"{first}.* ({len(members)})"
        for first, members in groups.items()
    ]


def _listed(words: list[str]) -> str:
    """At most `MOST_WORDS` of the words, and the number of the others."""
    rest = [f"{len(words) - MOST_WORDS} more"] if len(words) > MOST_WORDS else []
    return ", ".join([*words[:MOST_WORDS], *rest])


def left_of(place: Place, contents: Contents, taken: Iterable[str]) -> tuple[str, ...]:
    """Everything in a checkpoint but a network: the other names in its state dict (except `taken`),
    then state dicts that do not hold this network, then the rest.
    """
    beside = (name for name in place.beside if name not in set(taken))
    told = (place.name, *place.others, *place.copies)
    unsuited = (
        f"{state.key} ({len(state.arrays)} arrays)"
        for state in contents.state_dicts
        if state.key not in ("", *place.joined)
        and not any(name.startswith(f"`{state.key}`") for name in told)
    )
    return (*beside, *place.state.left, *unsuited, *contents.others)
