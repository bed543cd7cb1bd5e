"""What the library says of its arguments, in the words of the shell.

The library proposes `width_mult=0.25` to whoever calls it from Python; who reads it in a shell has
to type `--width-mult 0.25`.
"""

import ast
import re
import shlex
from typing import Any

__all__ = ["in_shell_words"]

# Where the library proposes arguments: `num_classes=0`, or "a model built with stem='3x3'".
PROPOSED = re.compile(r"(?<=built with )\w+=.+?(?= would fit)|(?<=`)\w+=[^`]+(?=`)")
# Where it names the arguments that choose a network.
NAMED = re.compile(r"(?<=`)(key|prefix|ema|drop)(?=`)")
OPTIONS = ("num_classes", "in_channels", "width_mult", "key", "prefix", "drop")


def in_shell_words(sentence: str) -> str:
    """A sentence with the arguments that it proposes as options of the command line."""
    return NAMED.sub(r"--\1", PROPOSED.sub(lambda found: _options(found[0]), sentence))


def _options(arguments: str) -> str:
    """`--width-mult 0.25 --set stem=3x3` of `width_mult=0.25, stem='3x3'`; unchanged if it cannot
    be read.
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
