"""Squeeze-and-excitation (Hu et al. 2018, https://arxiv.org/abs/1709.01507)."""

from torch import Tensor, nn

from torch_ref.blocks.channels import reduced_features, require_positive
from torch_ref.blocks.conv_norm_act import Activation, Norm, make_activation, make_norm

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the spatial means; keys `fc1`, `bn`, `fc2`.

    Args:
        reduction: The squeezed width is `features // reduction`.
        squeezed_features: The squeezed width itself; overrides `reduction`.
        activation: Between the two 1x1 convolutions.
        gate: After the second one.
        norm: After the first one; none by default.

    Shape: `(N, features, H, W)` to the same.

    Raises: ValueError if no channel is left.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 4,
        squeezed_features: int | None = None,
        activation: Activation = "relu",
        gate: Activation = "sigmoid",
        norm: Norm = None,
    ) -> None:
        super().__init__()
        require_positive(features=features)
        if squeezed_features is None:
            squeezed_features = reduced_features("features", features, reduction)
        require_positive(squeezed_features=squeezed_features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(features, squeezed_features, 1)
        self.bn = make_norm(norm, squeezed_features)
        self.activation = make_activation(activation)
        self.fc2 = nn.Conv2d(squeezed_features, features, 1)
        self.gate = make_activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.activation(self.bn(self.fc1(self.pool(x))))
        return x * self.gate(self.fc2(squeezed))
