"""A layer of Deformable DETR's decoder: queries read the memory around their reference points."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.layers.transformer import SelfAttention


class DeformableDecoderLayer(nn.Module):
    """Self attention, deformable attention to the memory, feed-forward; post-norm.

    Source: Deformable DETR, arXiv:2010.04159, section 4.1.

    Args:
        dim: C.
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
        self.self_attn = SelfAttention(dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.cross_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Update the queries.

        Args:
            x: (B, Q, C).
            position: (B, Q, C).
            reference: (B, Q, L, 2 or 4), see ``MSDeformAttn.sample``.
            memory: (B, S, C).
            shapes: (H_l, W_l) per level.
            padding: (B, S) bool, True on padding of the memory; None when nothing is padded.
            visible: (Q, Q) or (B, 1, Q, Q) bool, which query (row) reads which (column); None: each
                reads all.

        Returns:
            (B, Q, C).
        """
        x = self.self_norm(x + self.drop(self.self_attn(x, position, visible=visible)))
        sampled = self.cross_attn(x + position, reference, memory, shapes, padding)
        x = self.cross_norm(x + self.drop(sampled))
        hidden = self.drop(F.relu_(self.linear1(x)))
        out: Tensor = self.ffn_norm(x + self.drop(self.linear2(hidden)))
        return out
