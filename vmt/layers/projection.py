"""Maps of any width -> maps of one width, for encoders over several levels."""

from __future__ import annotations

from torch import Tensor, nn

NORM_GROUPS = 32


class Projection(nn.Module):
    """One convolution and a group norm.

    Args:
        in_dim: channels of the backbone map.
        dim: channels of the level.
        kernel: 1, or 3 with stride 2.
    """

    def __init__(self, in_dim: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_dim, dim, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2
        )
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None, "the projection has a bias"
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, h, w) -> (B, dim, ...)."""
        level: Tensor = self.norm(self.conv(x))
        return level
