"""Tells annotated foreground masks from predicted ones, given the frame and the encoder's maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels of the blocks behind the two merging convolutions (published code).
WIDTHS = (64, 128, 256, 512)
LEAK = 0.2
#: Standard deviation of fresh weights.
INIT_STD = 0.02


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel of (B, C, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def conv3x3(in_dim: int, out_dim: int) -> nn.Conv2d:
    """3x3 without bias, padding 1, N(0, 0.02)."""
    layer = nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False)
    nn.init.normal_(layer.weight, std=INIT_STD)
    return layer


class Discriminator(nn.Module):
    """Frame, encoder maps and a mask at stride 8 -> logits at stride 32, high for an annotation.

    The network of the published code, which nothing there uses; that ends in a sigmoid, this gives
    logits.

    Args:
        dim: channels of the encoder maps.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge = nn.ModuleList([conv3x3(3 + dim + 1, dim), conv3x3(dim, dim)])
        self.first = conv3x3(dim, WIDTHS[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(LEAK), conv3x3(a, b), ChannelNorm(b))
            for a, b in pairwise(WIDTHS)
        )
        self.last = nn.Sequential(nn.LeakyReLU(LEAK), conv3x3(WIDTHS[-1], 1))

    def forward(self, image: Tensor, maps: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Judge masks.

        Args:
            image: (n, 3, h, w) normalised, at stride 8.
            maps: encoder maps (n, C, h, w), (n, C, h/2, w/2), (n, C, h/4, w/4), sides rounded up.
            mask: (n, 1, h, w) in [0, 1].

        Returns:
            (n, 1, h/4, w/4) logits.
        """
        x = torch.cat([image, maps[0], mask], dim=1)
        for conv, level in zip(self.merge, maps[1:], strict=True):
            x = F.max_pool2d(conv(x), 3, stride=2, padding=1) + level
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.last(x)
        return logits
