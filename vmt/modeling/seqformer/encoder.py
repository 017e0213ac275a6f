"""The deformable encoder: every frame alone, all levels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.layers.position import sine_position_2d

#: The code of a cell stands at its centre: 1-based place minus one half (spec of SeqFormer).
CELL_OFFSET = 0.5


@dataclass(frozen=True)
class Levels:
    """How the S tokens of a frame lie: shapes of the levels and what of them is padding.

    Args:
        shapes: (H_l, W_l) per level, fine to coarse.
        valid_ratios: (B, L, 2) as (w, h): share of each map that is no padding.
        padding_mask: (B, S) bool, True on padding; None when nothing is padded.
    """

    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor
    padding_mask: Tensor | None

    @property
    def sizes(self) -> list[int]:
        """Tokens per level."""
        return [h * w for h, w in self.shapes]

    def select(self, rows: slice) -> Levels:
        """The same for some entries of axis B."""
        mask = self.padding_mask[rows] if self.padding_mask is not None else None
        return Levels(self.shapes, self.valid_ratios[rows], mask)


class EncoderLayer(nn.Module):
    """x = LN(x + DA(x + pos, x)); x = LN(x + FFN(x)).

    Args:
        dim: channels.
        num_levels: L.
        num_heads: M.
        num_points: K.
        ffn_dim: width of the feed-forward part.
        dropout: in training.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, levels: Levels) -> Tensor:
        """(B, S, C) -> (B, S, C); ``reference`` is (B, S, L, 2)."""
        sampled = self.attn(x + position, reference, x, levels.shapes, levels.padding_mask)
        x = self.norm1(x + self.drop(sampled))
        hidden = self.drop(F.relu_(self.linear1(x)))
        out: Tensor = self.norm2(x + self.drop(self.linear2(hidden)))
        return out


class Encoder(nn.Module):
    """Multi-scale features -> memory (SeqFormer, arXiv:2112.08275, section 3.1).

    Args:
        num_layers: 6 as published.
        dim: channels.
        num_levels: L.
        num_heads: M.
        num_points: K.
        ffn_dim: width of the feed-forward parts.
        dropout: in training.
    """

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_levels, num_heads, num_points, ffn_dim, dropout)
            for _ in range(num_layers)
        )

    def forward(self, maps: Sequence[Tensor], padding: Tensor | None) -> tuple[Tensor, Levels]:
        """Encode frames.

        Args:
            maps: per level (B, C, H_l, W_l).
            padding: (B, H, W) bool, True on padding of the input; None when nothing is padded.

        Returns:
            Memory (B, S, C) and the layout of its tokens.
        """
        batch = maps[0].shape[0]
        shapes = tuple((int(m.shape[-2]), int(m.shape[-1])) for m in maps)
        valid = [_valid_cells(padding, m) for m in maps]
        ratios = torch.stack([_valid_ratio(v) for v in valid], dim=1)  # (B or 1, L, 2)
        position = torch.cat(
            [
                sine_position_2d(v, m.shape[1] // 2, CELL_OFFSET).flatten(1, 2) + embed
                for v, m, embed in zip(valid, maps, self.level_embed, strict=True)
            ],
            dim=1,
        )  # (B or 1, S, C)
        mask = None
        if padding is not None:
            mask = torch.cat([~v.flatten(1) for v in valid], dim=1)
        levels = Levels(shapes, ratios.expand(batch, -1, -1), mask)
        reference = _cell_centres(shapes, ratios).expand(batch, -1, -1, -1)
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = position.to(x.dtype)
        for layer in self.layers:
            x = layer(x, position, reference, levels)
        return x, levels


def _valid_cells(padding: Tensor | None, level: Tensor) -> Tensor:
    """(B, H_l, W_l) bool; one row of all True when nothing is padded."""
    if padding is None:
        return level.new_ones((1, *level.shape[-2:]), dtype=torch.bool)
    size = (int(level.shape[-2]), int(level.shape[-1]))
    return F.interpolate(padding[:, None].float(), size=size)[:, 0] == 0


def _valid_ratio(valid: Tensor) -> Tensor:
    """(B, H, W) bool -> (B, 2) as (w, h): share of the first row and column that is valid."""
    return torch.stack([valid[:, 0, :].float().mean(-1), valid[:, :, 0].float().mean(-1)], dim=-1)


def _cell_centres(shapes: Sequence[tuple[int, int]], ratios: Tensor) -> Tensor:
    """Centre of every token in the coordinates of every level: (B, S, L, 2) as (x, y)."""
    points = []
    for level, (h, w) in enumerate(shapes):
        y = (torch.arange(h, device=ratios.device) + 0.5) / h
        x = (torch.arange(w, device=ratios.device) + 0.5) / w
        grid = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1)
        points.append(grid[None] / ratios[:, None, level])
    return torch.cat(points, dim=1)[:, :, None] * ratios[:, None]
