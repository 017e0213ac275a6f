"""Attention and feed-forward blocks, post-norm, on PyTorch's fused attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.feed_forward import FeedForward
from vmt.ops.linear import linear
from vmt.ops.varlen_attention import has_varlen_attention, varlen_attention


class Attention(nn.Module):
    """Parameters of multi-head attention, named as those of ``nn.MultiheadAttention``.

    The computation is ``scaled_dot_product_attention``.

    Args:
        dim: channels.
        num_heads: divides ``dim``.
        dropout: on the attention weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _attend(
        self,
        heads: Sequence[Tensor],
        visible: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Query, key and value -> (B, S, C), what the heads read, side by side.

        With ``lengths``, which want B = 1, within sequences along S, in one call.
        """
        query, key, value = heads
        dropout = self.dropout if self.training else 0.0
        if lengths is not None:
            out = varlen_attention(query, key, value, lengths, self.scale, dropout)
        else:
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=visible, dropout_p=dropout, scale=self.scale
            )
        return out.transpose(1, 2).flatten(2)


class SelfAttention(Attention):
    """Multi-head self attention in which positions steer who looks where, not what is read.

    Queries and keys come from ``x + position``, values from ``x``.
    """

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        lengths: Sequence[int] | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Attend among the tokens of each sequence.

        Args:
            x: (B, S, C).
            position: (B, S, C), or broadcastable to it.
            lengths: of sequences that lie one after another along S, none 0; tokens attend within
                theirs. None: S is one sequence.
            visible: (S, S) or (B, 1, S, S) bool, which token (row) reads which (column), each at
                least one; None: each reads all. Not together with ``lengths``.

        Returns:
            (B, S, C).
        """
        heads = self._heads(x, position)
        if lengths is None or len(lengths) == 1:
            read = self._attend(heads, visible)
        elif has_varlen_attention(x.device, heads[0].shape[-1]):
            read = self._attend(heads, lengths=lengths)
        else:
            parts = [part.split(list(lengths), 2) for part in heads]
            read = torch.cat([self._attend(part) for part in zip(*parts, strict=True)], 1)
        return linear(read, self.out_proj.weight, self.out_proj.bias)

    def _heads(self, x: Tensor, position: Tensor) -> list[Tensor]:
        """(B, S, C) twice -> query, key and value, (B, M, S, C/M) each."""
        dim = x.shape[-1]
        query_key = linear(
            x + position, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim]
        )
        value = linear(x, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        query, key = query_key.chunk(2, dim=-1)
        return [
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        ]

    def weights_of(self, x: Tensor, position: Tensor, token: int) -> Tensor:
        """How much one token reads of every other, mean over heads: for people to look at.

        Args:
            x: (S, C), one sequence.
            position: (S, C).
            token: which reads.

        Returns:
            (S,), adding up to 1.
        """
        query, key, _ = (part[0] for part in self._heads(x[None], position[None]))  # (M, S, D)
        scores = torch.einsum("md,msd->ms", query[:, token], key) * self.scale
        weights: Tensor = scores.softmax(-1).mean(0)
        return weights


class MaskedAttention(Attention):
    """Multi-head attention to other tokens, each query within its mask, if there is one."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            visible: (B, Q, S) or (B, 1, S) bool, which query reads which token, each at least one;
                None: each reads all.

        Returns:
            (B, Q, C).
        """
        heads = [self._head(part, x) for part, x in enumerate((query, key, value))]
        read = self._attend(heads, None if visible is None else visible[:, None])
        return linear(read, self.out_proj.weight, self.out_proj.bias)

    def weights_of(self, query: Tensor, key: Tensor, visible: Tensor | None = None) -> Tensor:
        """How much each query reads of each token, for people to look at.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            visible: as ``forward`` takes it.

        Returns:
            (B, M, Q, S), adding up to 1 over S.
        """
        scores = self._head(0, query) @ self._head(1, key).transpose(-1, -2) * self.scale
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None], -torch.inf)
        weights: Tensor = scores.softmax(-1)
        return weights

    def _head(self, part: int, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, M, S, C/M): query (part 0), key (1) or value (2)."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        head: Tensor = linear(x, weight, bias).unflatten(-1, (self.num_heads, -1))
        return head.transpose(1, 2)


class EncoderLayer(FeedForward):
    """Post-norm transformer layer: self attention, then feed-forward.

    Args:
        dim: channels.
        num_heads: attention heads.
        ffn_dim: channels inside the feed-forward part.
        dropout: in training.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """(B, S, C) -> (B, S, C); arguments as those of ``SelfAttention``."""
        x = self.norm1(x + self.drop(self.self_attn(x, position, lengths)))
        return self.feed_forward(x)
