"""Backbone maps -> levels of one width, the input of the deformable encoder."""

from __future__ import annotations

from torch import Tensor, nn

from vmt.layers.projection import Projection
from vmt.modeling.backbones.base import Backbone

#: Strides of the backbone maps that become levels; one more level halves the last of them again.
STRIDES = (8, 16, 32)


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
