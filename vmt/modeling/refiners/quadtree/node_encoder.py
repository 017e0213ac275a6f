"""From backbone maps and pixels to the tokens of quadtree nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.position import sine_features, sine_position_of_cells
from vmt.modeling.refiners.base import Refiner
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree
from vmt.ops.resize import nearest
from vmt.ops.strips import in_row_strips

RGB_HIDDEN = 32
#: Cells on each side that three 3x3 convolutions read.
RGB_HALO = 3
#: Stride-8 cells that a cut reaches into stride-4 and stride-2 features: one in the fusing layer,
#: and one stride-4 cell more in the reducing layer.
FINE_HALO = 1.5


class PyramidRefiner(Refiner):
    """A refiner that reads maps at strides 8, 4 and 2.

    Its layers have the names of ``DenseBand``'s where that has the same ones, so that published
    weights fit. Other than there, every cell of every level gets an RGB embedding, of three 3x3
    convolutions (arXiv:2207.14012, section 3.1).

    Args:
        dim: channels of the fused stride-8 map.
        stride4_dim: channels of the backbone's stride-4 map.
        has_stride2: whether the backbone has a stride-2 map of ``embed_dim`` channels; else the
            stride-4 map is upsampled and compressed in its place.
        embed_dim: channels of the results.
        frame_dim: channels of the frames: RGB, and whatever comes with it.
    """

    def __init__(
        self,
        dim: int,
        stride4_dim: int,
        has_stride2: bool,
        embed_dim: int,
        frame_dim: int = 3,
    ) -> None:
        super().__init__()
        self.reduce_s8 = nn.Conv2d(dim, embed_dim, 3, padding=1)
        self.fuse_s4 = nn.Conv2d(dim, stride4_dim, 3, padding=1)
        self.reduce_s4 = nn.Conv2d(stride4_dim, embed_dim, 3, padding=1)
        self.lift_s2 = nn.Conv2d(embed_dim, embed_dim, 1)
        self.compress = None if has_stride2 else nn.Conv2d(stride4_dim, embed_dim, 1)
        widths = (frame_dim, RGB_HIDDEN, embed_dim, embed_dim)
        layers: list[nn.Module] = []
        for width, wider in pairwise(widths):
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU(inplace=True)]
        self.rgb = nn.Sequential(*layers)

    def rgb_levels(self, frames: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """RGB embedding: computed at stride 2, averaged down.

        Args:
            frames: (t, frame_dim, H, W), normalised.
            sizes: (h, w) at strides 8, 4 and 2.

        Returns:
            (t, embed_dim, h, w) per level.
        """
        pixels = nearest(frames, sizes[2]).contiguous(memory_format=torch.channels_last)
        values = len(pixels) * self.lift_s2.out_channels * sizes[2][1]
        rgb2 = in_row_strips(
            lambda top, bottom: self.rgb(pixels[..., top:bottom, :]),
            sizes[2][0],
            RGB_HALO,
            values,
            pixels.device,
        )
        rgb4 = halve(rgb2, sizes[1])
        return [halve(rgb4, sizes[0]), rgb4, rgb2]

    def features_s8(self, fused: Tensor, rgb8: Tensor) -> Tensor:
        """(t, dim, h8, w8) fused map and embedding -> (t, embed_dim, h8, w8)."""
        return F.relu_(self.reduce_s8(fused)) + rgb8

    def fine_features(
        self, fused: Tensor, stride4: Tensor, stride2: Tensor | None, rgb4: Tensor, rgb2: Tensor
    ) -> list[Tensor]:
        """Maps of the finer levels, of whole frames or of the same part of each.

        Cells within ``FINE_HALO`` stride-8 cells of a cut differ from those of whole frames.

        Args:
            fused: (t, dim, h8, w8).
            stride4: (t, stride4_dim, h4, w4).
            stride2: (t, embed_dim, h2, w2), or None where the backbone has none.
            rgb4: (t, embed_dim, h4, w4).
            rgb2: (t, embed_dim, h2, w2); without gradient its memory is taken for the result.

        Returns:
            (t, embed_dim, h, w) at strides 4 and 2.
        """
        t, channels, h4, w4 = stride4.shape
        fused4 = F.relu_(self.fuse_s4(fused))

        def rows_s4(top: int, bottom: int) -> Tensor:
            above = fused4[..., top // 2 : (bottom + 1) // 2, :]
            lifted = F.interpolate(above, scale_factor=2.0, mode="nearest")
            mixed = lifted[..., top % 2 : top % 2 + bottom - top, :w4]
            return F.relu_(self.reduce_s4(mixed.add_(stride4[..., top:bottom, :])))

        s4 = in_row_strips(rows_s4, h4, 1, t * channels * w4, stride4.device)
        lifted = F.relu_(self.lift_s2(s4))
        if self.compress is not None:
            lifted = lifted + self.compress(stride4)
        if torch.is_grad_enabled():
            s2 = rgb2 + nearest(lifted, (int(rgb2.shape[-2]), int(rgb2.shape[-1])))
            return [s4 + rgb4, s2 if stride2 is None else s2 + stride2]
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the same doubling, in place
            part = rgb2[..., a::2, b::2]
            part += lifted[..., : part.shape[-2], : part.shape[-1]]
        if stride2 is not None:
            rgb2 += stride2
        return [s4.add_(rgb4), rgb2]


def halve(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the 2x2 cells below each cell, as far as they exist.

    Args:
        maps: (t, C, h, w).
        size: (ceil(h / 2), ceil(w / 2)).
    """
    halved = F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
    assert tuple(halved.shape[-2:]) == size, "levels halve, rounding up"
    return halved


class NodeEncoder(nn.Module):
    """Features of a node and the coarse probability there -> its token; its place -> a code.

    Source: arXiv:2207.14012, section 3.1, names the inputs; how they are combined is our choice.
    Surrounding cells are an input of the image method's node encoder (Mask Transfiner,
    arXiv:2111.13673, section 3.3).

    Args:
        embed_dim: channels of features and tokens, a multiple of 4.
        num_levels: of the quadtree.
        context: side of the square of cells, on the node's level, that a token is made of; odd.
    """

    def __init__(self, embed_dim: int, num_levels: int, context: int = 1) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.context = context
        self.token = nn.Linear(context**2 * (embed_dim + 1), embed_dim)
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        nn.init.normal_(self.level_embed)

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Make tokens.

        Args:
            features: (P, context^2, embed_dim), of ``around``.
            coarse: (P, context^2) probabilities in [0, 1] of the same cells.

        Returns:
            (P, embed_dim).
        """
        token: Tensor = self.token(torch.cat([features, coarse[..., None]], dim=2).flatten(1))
        return token

    def around(self, y: Tensor, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The cells that tokens are made of; beyond the map its outermost ones.

        Args:
            y: (P,) int64, row of the node.
            x: (P,) int64, column.
            size: (h, w) of the map.

        Returns:
            (P, context^2) int64 each: rows and columns, in reading order; the node itself is in the
            middle.
        """
        step = torch.arange(self.context, device=y.device) - self.context // 2
        rows = y[:, None] + step.repeat_interleave(self.context)
        columns = x[:, None] + step.repeat(self.context)
        return rows.clamp(0, size[0] - 1), columns.clamp(0, size[1] - 1)

    def position(self, tree: SequenceQuadtree, with_time: bool) -> Tensor:
        """Where nodes are: 2-D sine over the finest level, sine over the clip, level.

        Args:
            tree: P nodes.
            with_time: tell frames apart; False gives every frame the code of the first.

        Returns:
            (P, embed_dim).
        """
        scale = 2.0 ** (len(tree.sizes) - 1 - tree.level)
        rows, cols = ((cell + 0.5) * scale - 0.5 for cell in (tree.y, tree.x))
        place = sine_position_of_cells(rows, cols, tree.sizes[-1], self.embed_dim // 2, 0.0)
        steps = max(tree.num_frames - 1, 1) if with_time else math.inf
        time = sine_features(tree.frame.float() / steps * (2 * math.pi), self.embed_dim)
        return place + time + self.level_embed[tree.level]
