"""Rewrite the Python arguments in the library's error messages as command-line options.

Where the library suggests `width_mult=0.25`, a shell user has to type `--width-mult 0.25`.
"""

import ast
import re
import shlex
from typing import Any

__all__ = ["in_shell_words"]

# Where a message suggests arguments: `num_classes=0`, or "a model built with stem='3x3'".
PROPOSED = re.compile(r"(?<=built with )\w+=.+?(?= would fit)|(?<=`)\w+=[^`]+(?=`)")
# Where a message names the arguments that select a network.
NAMED = re.compile(r"(?<=`)(key|prefix|ema|drop)(?=`)")
OPTIONS = ("num_classes", "in_channels", "width_mult", "key", "prefix", "drop")


def in_shell_words(sentence: str) -> str:
    """The sentence with each suggested argument written as a command-line option."""
    return NAMED.sub(r"--\1", PROPOSED.sub(lambda found: _options(found[0]), sentence))


def _options(arguments: str) -> str:
    """`--width-mult 0.25 --set stem=3x3` for `width_mult=0.25, stem='3x3'`; unchanged if it cannot
    be parsed.
    """
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        given = {word.arg: ast.literal_eval(word.value) for word in getattr(call, "keywords", ())}
    except (SyntaxError, ValueError):
        return arguments
    return " ".join(_option(str(name), value) for name, value in given.items())


def _option(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_option(name, item) for item in value)
    word = shlex.quote(str(value))
    return f"--{name.replace('_', '-')} {word}" if name in OPTIONS else f"--set {name}={word}"
