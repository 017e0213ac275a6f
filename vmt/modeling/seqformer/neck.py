"""Backbone maps -> levels of one width, the input of the deformable encoder."""

from __future__ import annotations

from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone

NORM_GROUPS = 32
#: Strides of the backbone maps that become levels; one more level halves the last of them again.
STRIDES = (8, 16, 32)


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


class Neck(nn.ModuleList):
    """L levels: 1x1 convolutions of strides 8, 16, 32; then 3x3 stride 2, first on raw stride 32.

    Source: Deformable DETR, arXiv:2010.04159, appendix A.2.

    Args:
        backbone: gives the channels.
        dim: channels of every level.
        num_levels: at least 3.
    """

    def __init__(self, backbone: Backbone, dim: int, num_levels: int) -> None:
        layers = [Projection(backbone.channels[s], dim, 1) for s in STRIDES]
        for extra in range(num_levels - len(STRIDES)):
            layers.append(Projection(backbone.channels[STRIDES[-1]] if extra == 0 else dim, dim, 3))
        super().__init__(layers)

    def forward(self, maps: dict[int, Tensor]) -> list[Tensor]:
        """Backbone maps -> L maps (B*T, dim, h_l, w_l), fine to coarse."""
        levels = [layer(maps[stride]) for layer, stride in zip(self, STRIDES, strict=False)]
        x = maps[STRIDES[-1]]
        for layer in list(self)[len(STRIDES) :]:
            x = layer(x)
            levels.append(x)
        return levels
