"""The bottlenecks of MobileNetV3, as the paper's tables list them, before any scaling.

Source: Howard et al. 2019, https://arxiv.org/abs/1905.02244, tables 1 and 2.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "LARGE",
    "LARGE_DEEP",
    "SMALL",
    "STEM_FEATURES",
    "Bottleneck",
    "Setting",
    "halve_tail",
    "in_stages",
]


class Bottleneck(NamedTuple):
    """A row of the paper's tables: kernel, exp size, #out, SE, NL, s."""

    kernel: int
    hidden: int
    out: int
    squeeze_excite: bool
    activation: str
    stride: int


Setting = Sequence[tuple[int, int, int, bool, str, int]]
RE, HS = "relu", "hard_swish"
STEM_FEATURES = 16
LARGE = (  # table 1
    Bottleneck(3, 16, 16, False, RE, 1),
    Bottleneck(3, 64, 24, False, RE, 2),
    Bottleneck(3, 72, 24, False, RE, 1),
    Bottleneck(5, 72, 40, True, RE, 2),
    Bottleneck(5, 120, 40, True, RE, 1),
    Bottleneck(5, 120, 40, True, RE, 1),
    Bottleneck(3, 240, 80, False, HS, 2),
    Bottleneck(3, 200, 80, False, HS, 1),
    Bottleneck(3, 184, 80, False, HS, 1),
    Bottleneck(3, 184, 80, False, HS, 1),
    Bottleneck(3, 480, 112, True, HS, 1),
    Bottleneck(3, 672, 112, True, HS, 1),
    Bottleneck(5, 672, 160, True, HS, 2),
    Bottleneck(5, 960, 160, True, HS, 1),
    Bottleneck(5, 960, 160, True, HS, 1),
)
SMALL = (  # table 2
    Bottleneck(3, 16, 16, True, RE, 2),
    Bottleneck(3, 72, 24, False, RE, 2),
    Bottleneck(3, 88, 24, False, RE, 1),
    Bottleneck(5, 96, 40, True, HS, 2),
    Bottleneck(5, 240, 40, True, HS, 1),
    Bottleneck(5, 240, 40, True, HS, 1),
    Bottleneck(5, 120, 48, True, HS, 1),
    Bottleneck(5, 144, 48, True, HS, 1),
    Bottleneck(5, 288, 96, True, HS, 2),
    Bottleneck(5, 576, 96, True, HS, 1),
    Bottleneck(5, 576, 96, True, HS, 1),
)
# timm's 150d is table 1, a fifth deeper: how often each row is repeated.
REPEATS = (2, 1, 2, 1, 1, 2, 1, 2, 1, 1, 1, 2, 1, 1, 2)
LARGE_DEEP = tuple(row for row, n in zip(LARGE, REPEATS, strict=True) for _ in range(n))


def in_stages(table: Sequence[Bottleneck]) -> list[list[Bottleneck]]:
    """The rows by stage; a stage begins where the width changes or the image shrinks."""
    stages: list[list[Bottleneck]] = []
    for row in table:
        if not stages or row.out != stages[-1][-1].out or row.stride > 1:
            stages.append([])
        stages[-1].append(row)
    return stages


def halve_tail(table: Sequence[Bottleneck]) -> list[Bottleneck]:
    """The table with half the channels in its last stage, whose first block expands as before."""
    *body, (first, *rest) = in_stages(table)
    halved = [row._replace(hidden=row.hidden // 2) for row in rest]
    tail = [row._replace(out=row.out // 2) for row in (first, *halved)]
    return [*itertools.chain.from_iterable(body), *tail]
