"""The deformable encoder: every frame alone, all levels together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.adapter import Adapter
from vmt.layers.feed_forward import FeedForward
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.layers.position import sine_position_2d
from vmt.ops.frames import frame_chunks

#: SeqFormer's code of a cell stands at its centre: 1-based place minus one half
#: (docs/reference/released_code.md#position).
CELL_OFFSET = 0.5


@dataclass(frozen=True)
class Levels:
    """How the S tokens of a frame lie: shapes of the levels and what of them is padding.

    Args:
        shapes: (H_l, W_l) per level, in the order of the maps that the encoder is given.
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


class EncoderAdapter(Adapter):
    """Base of everything in ENCODER_ADAPTERS: runs beside deformable attention."""

    def forward(self, x: Tensor, levels: Levels, num_frames: int) -> Tensor:
        """What to add to the output of deformable attention.

        Args:
            x: (B*T, S, C), input of the layer with its position code; padding holds anything.
            levels: layout of the tokens, for B*T frames.
            num_frames: T; the frames of a clip lie side by side.

        Returns:
            (B*T, S, C).
        """
        raise NotImplementedError


class EncoderLayer(FeedForward):
    """x = LN(x + DA(x + pos, x)); x = LN(x + FFN(x)); a branch adds its output to DA's.

    Args:
        dim: channels.
        num_levels: L.
        num_heads: M.
        num_points: K.
        ffn_dim: width of the feed-forward part.
        dropout: in training.
        branch: what runs beside the attention, or None.
        frame_chunk: with a branch, frames at once in all that looks at one frame alone, where no
            gradient is asked for; bounds memory, changes nothing else.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
        branch: EncoderAdapter | None = None,
        frame_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.frame_chunk = frame_chunk
        self.attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, levels: Levels, num_frames: int
    ) -> Tensor:
        """(B*T, S, C) -> (B*T, S, C); ``reference`` is (B*T, S, L, 2)."""
        if self.branch is None:
            return self._frames(x, position, reference, levels, None)
        added = self.branch(x + position, levels, num_frames)
        if torch.is_grad_enabled():
            return self._frames(x, position, reference, levels, added)
        out = torch.empty_like(x)
        for rows in frame_chunks(len(x), self.frame_chunk):
            where = position if len(position) == 1 else position[rows]
            out[rows] = self._frames(
                x[rows], where, reference[rows], levels.select(rows), added[rows]
            )
        return out

    def _frames(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        levels: Levels,
        added: Tensor | None,
    ) -> Tensor:
        """What every frame goes through alone."""
        sampled = self.attn(x + position, reference, x, levels.shapes, levels.padding_mask)
        if added is not None:
            sampled = sampled + added
        return self.feed_forward(self.norm1(x + self.drop(sampled)))


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
        branch: makes the branch of a layer; None for SeqFormer.
        frame_chunk: see ``EncoderLayer``.
        cell_offset: of the position codes, see ``sine_position_2d``; Mask2Former and MaskDINO
            have 0.

    Attributes:
        mixes_frames: whether the frames of a clip must come together.
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
        branch: Callable[[], EncoderAdapter] | None = None,
        frame_chunk: int = 0,
        cell_offset: float = CELL_OFFSET,
    ) -> None:
        super().__init__()
        self.mixes_frames = branch is not None
        self.cell_offset = cell_offset
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        self.layers = nn.ModuleList(
            EncoderLayer(
                dim,
                num_levels,
                num_heads,
                num_points,
                ffn_dim,
                dropout,
                branch() if branch is not None else None,
                frame_chunk,
            )
            for _ in range(num_layers)
        )

    def forward(
        self, maps: Sequence[Tensor], padding: Tensor | None, num_frames: int = 1
    ) -> tuple[Tensor, Levels]:
        """Encode frames.

        Args:
            maps: per level (B*T, C, H_l, W_l).
            padding: (B*T, H, W) bool, True on padding of the input; None when nothing is padded.
            num_frames: T; matters to branches alone.

        Returns:
            Memory (B*T, S, C) and the layout of its tokens.
        """
        batch = maps[0].shape[0]
        shapes = tuple((int(m.shape[-2]), int(m.shape[-1])) for m in maps)
        valid = self.valid_cells(padding, maps)
        ratios = torch.stack([_valid_ratio(v) for v in valid], dim=1)  # (B or 1, L, 2)
        position = torch.cat(
            [
                sine_position_2d(v, m.shape[1] // 2, self.cell_offset).flatten(1, 2) + embed
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
            x = layer(x, position, reference, levels, num_frames)
        return x, levels

    def valid_cells(self, padding: Tensor | None, maps: Sequence[Tensor]) -> list[Tensor]:
        """Which cells of a level are no padding; arguments as in ``forward``.

        Returns:
            Per level (B*T, H_l, W_l) bool, or one row of True when nothing is padded.
        """
        return [_valid_cells(padding, level) for level in maps]


def split_levels(memory: Tensor, levels: Levels) -> list[Tensor]:
    """Memory (B, S, C) -> L maps (B, C, h_l, w_l)."""
    parts = memory.split(levels.sizes, dim=1)
    return [
        part.transpose(1, 2).unflatten(2, shape)
        for part, shape in zip(parts, levels.shapes, strict=True)
    ]


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
