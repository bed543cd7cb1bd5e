"""The residual connection (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

from torch import Tensor, nn

__all__ = ["ResidualAdd"]


class ResidualAdd(nn.Module):
    """`block(x) + shortcut(x)`, where the shortcut is the identity if None; never in place.

    Keys `block.*`, `shortcut.*`.

    Raises: ValueError on a call whose two terms differ in shape (PyTorch would broadcast some).
    """

    def __init__(self, block: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.block = block
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        # An empty nn.Sequential is falsy, so compare with None.
        transformed, skipped = self.block(x), x if self.shortcut is None else self.shortcut(x)
        if transformed.shape != skipped.shape:
            raise ValueError(
                f"`block` gives shape {tuple(transformed.shape)}: "
                f"must equal the shortcut's {tuple(skipped.shape)}"
            )
        return transformed + skipped
