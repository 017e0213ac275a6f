"""Temporal attention of the decoder: the frames of a box query exchange what they know."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.modeling.msts.attention import attend_frames, preset
from vmt.modeling.msts.encoder import linear
from vmt.modeling.seqformer.decoder import DecoderAdapter


class TemporalAttention(DecoderAdapter):
    """b = b + gate * attention over T of LN(b), for each query alone; the gate starts at zero.

    Source: arXiv:2203.13253, official architecture figure; norm, gate and sizes are ours.

    Args:
        dim: channels of a box query.
        width: inside attention.
        num_heads: divides ``width``.
        dropout: in training.
        bias: of queries, keys and values.
    """

    def __init__(
        self, dim: int, width: int, num_heads: int = 8, dropout: float = 0.1, bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = linear(dim, 3 * width, bias)
        self.out = linear(width, dim)
        self.gate = nn.Parameter(torch.zeros(dim))
        self.drop = nn.Dropout(dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TemporalAttention:
        """Build from ``MODEL.MSTS`` and ``MODEL.SEQFORMER``.

        Raises:
            ConfigError: an unknown preset.
        """
        widths = preset(cfg.MODEL.MSTS.PRESET)
        node = cfg.MODEL.SEQFORMER
        return cls(node.HIDDEN_DIM, widths.dim, dropout=node.DROPOUT, bias=widths.mixer_bias)

    def forward(self, box_query: Tensor) -> Tensor:
        """(B, T, Q, C) -> (B, T, Q, C)."""
        query, key, value = self.qkv(self.norm(box_query)).chunk(3, dim=-1)
        mixed = self.out(attend_frames(query, key, value, self.num_heads))
        out: Tensor = box_query + self.gate.to(mixed.dtype) * self.drop(mixed)
        return out
