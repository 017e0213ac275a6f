"""Backbone maps -> levels of the encoder, in either order, and the decoder's view of its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Levels
from vmt.layers.projection import Projection
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.maskdino.options import MaskDINOOptions


class LevelNeck(nn.ModuleList):
    """One projection per level: backbone maps in the encoder's order, then the extra levels.

    An extra level is a convolution of stride 2, first of the raw stride-32 map, then of the extra
    level before it.

    Args:
        backbone: gives the channels.
        options: see ``MaskDINOOptions``.
    """

    def __init__(self, backbone: Backbone, options: MaskDINOOptions) -> None:
        self.fine_first = options.level_order == "low2high"
        self.strides = options.strides if self.fine_first else options.strides[::-1]
        channels = backbone.channels
        layers = [Projection(channels[stride], options.dim, 1) for stride in self.strides]
        coarsest = channels[max(options.strides)]
        for extra in range(options.extra_levels):
            layers.append(Projection(coarsest if extra == 0 else options.dim, options.dim, 3))
        super().__init__(layers)

    def forward(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """Backbone maps by stride -> L maps (B, C, h_l, w_l), in the encoder's order."""
        count = len(self.strides)
        levels = [layer(maps[stride]) for layer, stride in zip(self, self.strides, strict=False)]
        extras: list[Tensor] = []
        x = maps[max(self.strides)]
        for layer in list(self)[count:]:
            x = layer(x)
            extras.append(x)
        return [*levels, *extras] if self.fine_first else [*extras[::-1], *levels]

    def level_of(self, levels: Sequence[Tensor], stride: int) -> Tensor:
        """That of L levels, in the encoder's order, which has the stride of a backbone map."""
        index = self.strides.index(stride)
        return levels[index if self.fine_first else index - len(self.strides)]


def reverse_levels(memory: Tensor, levels: Levels) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """The decoder reads the levels in the opposite order.

    Returns:
        Memory (B, S, C) and the shapes of its levels.
    """
    parts = memory.split(levels.sizes, dim=1)
    return torch.cat(parts[::-1], dim=1), levels.shapes[::-1]
