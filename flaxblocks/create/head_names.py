"""Names of heads: those of a model's own, and those that other programs give theirs."""

import re

from flaxblocks.convert.keymap import KeyMap

__all__ = ["HEAD", "body_of", "is_headlike", "is_of_head", "within_head"]

HEAD = "head"  # native name of a model's last layer
# What a last layer is called, in part.
WORDS = re.compile(
    r"(new_|last_|my)?((fc|heads?)(\d+|_\w+)?|classif\w*|logits?|linear|out|output|predict\w*|cls\w*)"
)


def is_headlike(name: str) -> bool:
    """A module that the name goes through is called as heads are."""
    return any(WORDS.fullmatch(word.strip("_")) for word in name.split(".")[:-1])


def is_of_head(name: str, body: set[str]) -> bool:
    """The name is called as heads are, outside of the body: a squeeze-and-excitation has an `fc`
    too, and belongs to its block.
    """
    first, *_ = name.split(".")
    in_body = any(key.startswith(f"{first}.") for key in body)
    return is_headlike(f"{first}.") if in_body else is_headlike(name)


def body_of(keys: KeyMap, head: str = HEAD) -> set[str]:
    """The layout's names of all but the head; of all where `head` is ""."""
    return {e.foreign for e in keys.entries if not (head and e.native.startswith(f"{head}."))}


def within_head(keys: KeyMap, body: set[str]) -> tuple[str, ...]:
    """The beginnings of names that belong to the head: its own, or the word that it is below where
    nothing of the body is.
    """
    starts = []
    for foreign in (key for key in keys.by_foreign if key not in body):
        own = foreign.rpartition(".")[0]
        outer = f"{own.partition('.')[0]}."
        starts.append(f"{own}." if any(key.startswith(outer) for key in body) else outer)
    return tuple(dict.fromkeys(starts))
