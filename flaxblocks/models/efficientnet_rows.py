"""The stages of the EfficientNets, as the papers' tables list them, before any scaling.

Sources: Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1; Tan and Le 2021 (V2),
https://arxiv.org/abs/2104.00298, table 4 (S). The larger V2 networks, and the base one that B0 to
B3 scale, are in the authors' code only: https://github.com/google/automl/tree/master/efficientnetv2
The "rw" networks are timm's own; their first author built them from the paper's figure before that
code was out.
"""

from typing import NamedTuple

__all__ = ["V1", "V2_BASE", "V2_L", "V2_M", "V2_RW_M", "V2_RW_S", "V2_S", "V2_XL", "Stage"]


class Stage(NamedTuple):
    """One row of a table; the stride is the first block's, the others' is 1.

    Attributes:
        kind: "mbconv" (1x1, depthwise, squeeze-excite, 1x1) or "fused_mbconv" (dense, 1x1).
        expand_ratio: hidden width as a multiple of a block's input.
        kernel: pixels of the depthwise or dense convolution.
        stride: 1 or 2.
        out: channels.
        depth: blocks.
        always_project: keep the 1x1 of a fused block that does not expand; the authors leave it
            out.
    """

    kind: str
    expand_ratio: float
    kernel: int
    stride: int
    out: int
    depth: int
    always_project: bool = False


V1 = (
    Stage("mbconv", expand_ratio=1, kernel=3, stride=1, out=16, depth=1),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=24, depth=2),
    Stage("mbconv", expand_ratio=6, kernel=5, stride=2, out=40, depth=2),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=80, depth=3),
    Stage("mbconv", expand_ratio=6, kernel=5, stride=1, out=112, depth=3),
    Stage("mbconv", expand_ratio=6, kernel=5, stride=2, out=192, depth=4),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=320, depth=1),
)
V2_BASE = (
    Stage("fused_mbconv", expand_ratio=1, kernel=3, stride=1, out=16, depth=1),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=32, depth=2),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=48, depth=2),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=96, depth=3),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=112, depth=5),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=192, depth=8),
)
V2_S = (
    Stage("fused_mbconv", expand_ratio=1, kernel=3, stride=1, out=24, depth=2),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=48, depth=4),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=64, depth=4),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=128, depth=6),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=160, depth=9),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=256, depth=15),
)
V2_M = (
    Stage("fused_mbconv", expand_ratio=1, kernel=3, stride=1, out=24, depth=3),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=48, depth=5),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=80, depth=5),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=160, depth=7),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=176, depth=14),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=304, depth=18),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=512, depth=5),
)
V2_L = (
    Stage("fused_mbconv", expand_ratio=1, kernel=3, stride=1, out=32, depth=4),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=64, depth=7),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=96, depth=7),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=192, depth=10),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=224, depth=19),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=384, depth=25),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=640, depth=7),
)
V2_XL = (
    Stage("fused_mbconv", expand_ratio=1, kernel=3, stride=1, out=32, depth=4),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=64, depth=8),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=96, depth=8),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=192, depth=16),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=256, depth=24),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=512, depth=32),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=640, depth=8),
)
V2_RW_S = (
    Stage("fused_mbconv", 1, kernel=3, stride=1, out=24, depth=2, always_project=True),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=48, depth=4),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=64, depth=4),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=128, depth=6),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=160, depth=9),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=272, depth=15),
)
V2_RW_M = (  # V2_RW_S, the first four stages 1.2 and the last two 1.6 times as deep
    Stage("fused_mbconv", 1, kernel=3, stride=1, out=24, depth=3, always_project=True),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=48, depth=5),
    Stage("fused_mbconv", expand_ratio=4, kernel=3, stride=2, out=64, depth=5),
    Stage("mbconv", expand_ratio=4, kernel=3, stride=2, out=128, depth=8),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=1, out=160, depth=15),
    Stage("mbconv", expand_ratio=6, kernel=3, stride=2, out=272, depth=24),
)
