"""ReXNet-lite: ReXNet for devices, without squeeze-excite and SiLU.

Source: Han et al. 2021, https://arxiv.org/abs/2007.00992, appendix A, table A2.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rexnet import (
    DEPTHS,
    LAST_FEATURES,
    STEM_FEATURES,
    linear_widths,
    official_names,
    rex_trunk,
)
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel
from flaxblocks.nn.arguments import check_factor, check_positive
from flaxblocks.nn.norm import Norm, set_batch_norm
from flaxblocks.nn.pool import global_avg_pool

__all__ = ["ReXNetLite"]

EMBEDDING_FEATURES = 1024


def _official(model: "ReXNetLite") -> Iterator[tuple[str, ...]]:
    yield from official_names(model)
    yield "embedding.conv", "output.0"
    yield "embedding.norm", "output.1"
    yield "embedding", "output.2", "output"
    yield "head", "output.4", "conv1x1"


class ReXNetLite(StagedModel):
    """ReXNet-lite with the official release's arguments."""

    layouts = {"official": _official, "article": _official}

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        input_features: int = 16,
        final_features: int = 164,
        width_mult: float = 1.0,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3, 3, 3),
        fix_head_stem: bool = False,
        round_nearest: int = 8,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns 1024 features.
            in_channels: number of image channels.
            input_features: output channels of the first block; the stem has 32.
            final_features: unscaled difference of the last block's channels and the first's.
            width_mult: scales every width; those of the stem, the first block and the last
                convolution only upwards.
            kernel_sizes: sizes of the depthwise convolutions, one for each of the six stages.
            fix_head_stem: do not scale the stem and the last convolution.
            round_nearest: widths are rounded to multiples of this, except the last convolution's.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: drop rate of the last block, in [0, 1]; rates rise linearly from 0.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for a number out of range, or if there are not six kernel sizes.
        """
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(input_features=input_features, round_nearest=round_nearest)
        check_factor(final_features=final_features, width_mult=width_mult)
        if len(kernel_sizes) != len(DEPTHS):
            raise ValueError(
                f"`kernel_sizes` (={kernel_sizes}) must have {len(DEPTHS)} numbers, one a stage"
            )
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"norm": norm, "activation": "relu6", **types}
        layer = partial(ConvNormAct, bias=False, **convs)
        self.in_channels = in_channels
        self.depths = DEPTHS

        count = sum(DEPTHS)
        step = final_features / (count - 1)
        widths = linear_widths(input_features, step, count, width_mult, round_nearest)
        ends = 1.0 if fix_head_stem else max(1.0, width_mult)  # scales the stem and the last
        (stem_features,) = linear_widths(STEM_FEATURES, 0, 1, ends, round_nearest)
        self.stem = layer(in_channels, stem_features, 3, stride=2)
        trunk = rex_trunk(
            stem_features,
            widths,
            DEPTHS,
            kernel_sizes=kernel_sizes,
            stochastic_depth=stochastic_depth,
            **convs,
        )
        self.add_trunk(trunk)
        self.num_features = int(LAST_FEATURES * ends)
        self.head_conv: ConvNormAct | None = layer(trunk.features, self.num_features, 1)
        self.embedding: ConvNormAct | None = ConvNormAct(
            self.num_features, EMBEDDING_FEATURES, 1, **convs
        )
        self.add_head(num_classes, dropout, **types)

    @property
    def head_features(self) -> int:
        """Input channels of the head: the outputs of the convolution before it."""
        return EMBEDDING_FEATURES

    def embed(self, x: Float[Array, "N h w F"]) -> Float[Array, "N E"]:
        """The mean of the last feature map through a 1x1 convolution: `(N, h, w, num_features)` to
        `(N, head_features)`.
        """
        x = global_avg_pool(x)
        return x if self.embedding is None else self.embedding(x[:, None, None, :])[:, 0, 0, :]

    def drop_after(self, index: int) -> None:
        """Remove what runs after feature map `index`, including the layer before the head."""
        super().drop_after(index)
        self.embedding = None


_row = Rows(build=ReXNetLite, source="official", oracle="torch_ref.models.rexnet:ReXNetLite")

# fmt: off
_row("rexnet_lite_100", 4_740_056, 406_850_120, width_mult=1.0)
_row("rexnet_lite_130", 6_747_960, 646_503_624, width_mult=1.3)
_row("rexnet_lite_150", 8_332_296, 836_413_656, width_mult=1.5)
_row("rexnet_lite_200", 12_966_200, 1_498_336_184, width_mult=2.0)
# fmt: on
