"""The temporal refinement transformer: nodes of all frames attend to each other and to queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.transformer import EncoderLayer, SelfAttention


class NearAttention(SelfAttention):
    """Self attention that falls with distance: a Gaussian of where two tokens lie on the object.

    Ours. Scores get -|a - b|^2 / (2 r^2) for tokens at places a and b and a learned reach r per
    head. Of that, -|a|^2 is the same for all that a token reads, and the rest is a product of
    three more channels of query and key; so the fused kernel does it, without a matrix. It runs in
    fp32 whatever the layers around it do: in bf16 squares of distances would be wrong by ones.

    Args:
        dim: channels.
        num_heads: divides ``dim``.
        dropout: on the attention weights, in training.
        reach_px: r of the first head at the start; each further head reaches twice as far.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, reach_px: float) -> None:
        super().__init__(dim, num_heads, dropout)
        reach = reach_px * 2.0 ** torch.arange(num_heads)
        self.log_reach = nn.Parameter(reach.log())

    def _heads(self, x: Tensor, position: Tensor) -> list[Tensor]:
        """As the base class, but ``position`` (B, S, C + 2) ends with places in pixels (y, x)."""
        code = position[..., :-2].to(x.dtype)
        query, key, value = (part.float() for part in super()._heads(x, code))
        B, M, S, width = query.shape
        place = position[:, None, :, -2:].float() / self.log_reach.float().exp()[:, None, None]
        one = place.new_ones(B, M, S, 1)
        # Kernels want widths of a multiple of 8, and the same for all three.
        room = place.new_zeros(B, M, S, -(width + 3) % 8)
        far = -place.square().sum(-1, keepdim=True) / 2
        return [
            torch.cat([query, place / self.scale, one / self.scale, room], -1),
            torch.cat([key, place, far, room], -1),
            torch.cat([value, 0 * place, 0 * one, room], -1),
        ]

    def _attend(
        self,
        heads: Sequence[Tensor],
        visible: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        with torch.autocast(heads[0].device.type, enabled=False):
            read = super()._attend(heads, visible, lengths)
        dim = self.out_proj.in_features
        own: Tensor = read.unflatten(-1, (self.num_heads, -1))[..., : dim // self.num_heads]
        return own.flatten(2).to(self.out_proj.weight.dtype)


@dataclass(frozen=True)
class Blocks:
    """P tokens parted into blocks.

    Args:
        order: (P,) int64, brings the tokens of each block together.
        back: (P,) int64, undoes it.
        sizes: tokens of each block, in that order, none 0.
    """

    order: Tensor
    back: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of_keys(cls, keys: Sequence[Tensor]) -> list[Blocks]:
        """For each (P,) int64 of keys the blocks of equal ones, by ascending key.

        All of them together wait for the device once.
        """
        if not keys:
            return []
        stacked = torch.stack(list(keys))
        order = stacked.argsort(dim=1, stable=True)
        ordered = stacked.gather(1, order)
        last = torch.ones_like(ordered, dtype=torch.bool)  # of its block
        last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
        ends = [[0, *(1 + row.nonzero()[:, 0]).tolist()] for row in last.cpu()]
        sizes = [tuple(b - a for a, b in pairwise(row)) for row in ends]
        return [cls(*three) for three in zip(order, order.argsort(dim=1), sizes, strict=True)]

    def part(self, tokens: slice) -> Blocks:
        """The same for some tokens, among which are all those of their blocks."""
        ends = [0, *accumulate(self.sizes)]
        sizes = self.sizes[ends.index(tokens.start) : ends.index(tokens.stop)]
        return Blocks(self.order[tokens] - tokens.start, self.back[tokens] - tokens.start, sizes)


class NodeAttentionLayer(EncoderLayer):
    """NAL: a transformer layer over sequences of different lengths, one after another.

    The sequences lie side by side without padding, and attention, fused, never builds its weight
    matrix: in one call on a GPU, one by one on a CPU, which a sequence fills. Parameters are those
    of ``EncoderLayer``.

    Args:
        dim: channels.
        num_heads: attention heads.
        ffn_dim: channels inside the feed-forward part.
        dropout: in training.
        reach_px: see ``NearAttention``; 0: plain ``SelfAttention``.
    """

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, reach_px: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, ffn_dim, dropout)
        if reach_px:
            self.self_attn = NearAttention(dim, num_heads, dropout, reach_px)


class InstanceGuidance(nn.Module):
    """IGL: nodes read the video-level embeddings of all tracklets of the clip.

    Source: arXiv:2207.14012, section 3.1. With its own tracklet's embedding as the only key,
    softmax would give every node the same constant; so all N are keys, and the own one is marked.

    Args:
        dim: channels.
        num_heads: divides ``dim``.
        dropout: in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        for layer in (self.query_proj, self.key_proj, self.value_proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query_proj, self.key_proj, self.value_proj, self.out_proj):
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, position: Tensor, instances: Tensor, own: Tensor, tracklet: Tensor
    ) -> Tensor:
        """Read the instances.

        Args:
            x: (P, C) nodes.
            position: (P, C).
            instances: (N, C) embeddings.
            own: (C,), added to the key of a node's own tracklet.
            tracklet: (P,) int64 in [0, N), whose node it is.

        Returns:
            (P, C).
        """

        def heads(values: Tensor) -> Tensor:
            split: Tensor = values.unflatten(-1, (self.num_heads, -1))  # (..., M, D)
            return split

        query = heads(self.query_proj(x + position))
        scores = torch.einsum("pmd,nmd->pmn", query, heads(self.key_proj(instances)))
        # The key layer is linear, so the marked key is the plain one plus the marker's image.
        marker = heads(F.linear(own, self.key_proj.weight))
        numbers = torch.arange(len(instances), device=tracklet.device)
        mine = (tracklet[:, None] == numbers).to(scores.dtype)
        scores = scores + (query * marker).sum(-1)[..., None] * mine[:, None]
        weights = (scores * query.shape[-1] ** -0.5).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        read = torch.einsum("pmn,nmd->pmd", weights, heads(self.value_proj(instances)))
        guided: Tensor = self.norm(x + self.drop(self.out_proj(read.flatten(1))))
        return guided


class SequenceEncoder(nn.Module):
    """Node attention layers; after each, an instance guidance layer.

    Args:
        dim: channels of tokens.
        query_dim: channels of instance queries.
        num_heads: of both attentions.
        num_layers: pairs of layers.
        ffn_dim: feed-forward width of the node attention layers.
        dropout: in training.
        guided: with instance guidance; False leaves it out, as the released code does.
        reach_px: see ``NodeAttentionLayer``.
    """

    def __init__(
        self,
        dim: int,
        query_dim: int,
        num_heads: int,
        num_layers: int,
        ffn_dim: int,
        dropout: float,
        guided: bool = True,
        reach_px: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            NodeAttentionLayer(dim, num_heads, ffn_dim, dropout, reach_px)
            for _ in range(num_layers)
        )
        self.guidance: nn.ModuleList | None = None
        if guided:
            self.instance = nn.Linear(query_dim, dim)
            self.own = nn.Parameter(torch.empty(dim))
            nn.init.normal_(self.own)
            self.guidance = nn.ModuleList(
                InstanceGuidance(dim, num_heads, dropout) for _ in range(num_layers)
            )

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        lengths: Sequence[int],
        query: Tensor,
        tracklet: Tensor,
        blocks: Sequence[Blocks] = (),
    ) -> Tensor:
        """Refine tokens.

        Args:
            x: (P, C), the sequences one after another.
            position: (P, C); with ``reach_px`` (P, C + 2), which ends with places on the object.
            lengths: of the sequences.
            query: (N, query_dim) instance queries.
            tracklet: (P,) int64, whose node it is.
            blocks: of the P tokens, for the layers in turn: tokens attend to those of the same
                block only, wherever they stand. None: to their whole sequence.

        Returns:
            (P, C).
        """
        if not len(x):
            return x
        used = [length for length in lengths if length]
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, NodeAttentionLayer), "built with node attention layers"
            if blocks:
                own = blocks[index % len(blocks)]
                x = layer(x[own.order][None], position[own.order][None], own.sizes)[0][own.back]
            else:
                x = layer(x[None], position[None], used)[0]
            if self.guidance is not None:
                code = position[:, : x.shape[1]].to(x.dtype)
                x = self.guidance[index](x, code, self.instance(query), self.own, tracklet)
        return x
