"""Names of heads: those of a layout, and those that other programs use."""

import re

from flaxblocks.convert.keymap import KeyMap

__all__ = ["HEAD", "body_of", "is_headlike", "is_of_head", "within_head"]

HEAD = "head"  # native name of a model's last layer
# Usual names of a last layer.
WORDS = re.compile(
    r"(new_|last_|my)?((fc|heads?)(\d+|_\w+)?|classif\w*|logits?|linear|out|output|predict\w*|cls\w*)"
)


def is_headlike(name: str) -> bool:
    """Whether a module in the path of a name has a usual name of a head."""
    return any(WORDS.fullmatch(word.strip("_")) for word in name.split(".")[:-1])


def is_of_head(name: str, body: set[str]) -> bool:
    """Whether a name is that of a head and not in the body: a squeeze-and-excitation block has an
    `fc` too.
    """
    first, *_ = name.split(".")
    in_body = any(key.startswith(f"{first}.") for key in body)
    return is_headlike(f"{first}.") if in_body else is_headlike(name)


def body_of(keys: KeyMap, head: str = HEAD) -> set[str]:
    """The layout's names of everything except the head; all names if `head` is ""."""
    return {e.foreign for e in keys.entries if not (head and e.native.startswith(f"{head}."))}


def within_head(keys: KeyMap, body: set[str]) -> tuple[str, ...]:
    """The prefixes of names that belong to the head: its path, or only the first component of this
    path if no name of the body begins with it.
    """
    starts = []
    for foreign in (key for key in keys.by_foreign if key not in body):
        own = foreign.rpartition(".")[0]
        outer = f"{own.partition('.')[0]}."
        starts.append(f"{own}." if any(key.startswith(outer) for key in body) else outer)
    return tuple(dict.fromkeys(starts))
