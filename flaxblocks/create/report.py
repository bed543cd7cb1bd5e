"""What loading a checkpoint did: what was taken of it and where it went, and what was left."""

from collections.abc import Iterable
from dataclasses import dataclass

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fill import Cast
from flaxblocks.create.places import Place

__all__ = ["LoadReport", "grouped", "left_of"]

MOST_WORDS = 20  # in a sentence of what was left


@dataclass(frozen=True)
class LoadReport:
    """What `load_torch` or `create_model` did.

    Attributes:
        layout: whose naming the source was in.
        loaded: variables filled from the source.
        missing: keys that the source lacked (with `strict=False`); their variables are as they
            were.
        unexpected: keys of the source that were not used (with `strict=False`).
        uncounted: batch counts that the source, older than PyTorch 0.4.1, lacked, and which are 0
            now.
        cast: (key, dtype in the source, dtype of the variable) wherever the two differ; of batch
            counts those that the variable has no room for, and which are its largest or smallest
            number now.
        taken: where in the source the network lay, in words; "" for all of a plain state dict.
        others: the places of other networks that the source holds, with the same names and other
            numbers; `key`, `prefix` and `ema` choose among them.
        head: what became of the head, in words; "" if it was filled under its own name.
        settings: what of the model the checkpoint's `config.json` or layout decided, in words; ""
            if it is as it was asked for.
        doubt: which other model has the same names, where nothing tells the two apart; "" if there
            is none.
        left: names of what lay beside the network in the source: another head, a loss, an
            optimiser.
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
        """One line: `314 variables loaded in layout 'torchvision'`, and what is worth knowing
        besides.
        """
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
        """What was taken and what was left, a phrase each; nothing for a plain state dict."""
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
    """Names by their first word, with how many each stands for: `fc (4)`, `criterion.weight`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [
        members[0] if len(members) == 1 else f"{first}.* ({len(members)})"
        for first, members in groups.items()
    ]


def _listed(words: list[str]) -> str:
    """At most `MOST_WORDS` of them."""
    rest = [f"{len(words) - MOST_WORDS} more"] if len(words) > MOST_WORDS else []
    return ", ".join([*words[:MOST_WORDS], *rest])


def left_of(place: Place, contents: Contents, taken: Iterable[str]) -> tuple[str, ...]:
    """What a checkpoint holds beside a network: names of its state dict, but for `taken`, then
    other state dicts that have no such network, then the rest.
    """
    beside = (name for name in place.beside if name not in set(taken))
    told = (place.name, *place.others, *place.copies)
    unsuited = (
        f"{state.key} ({len(state.arrays)} arrays)"
        for state in contents.state_dicts
        if state.key and not any(name.startswith(f"`{state.key}`") for name in told)
    )
    return (*beside, *place.state.left, *unsuited, *contents.others)
