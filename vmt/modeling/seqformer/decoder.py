"""The decoder of SeqFormer: one instance query per tracklet, one box query per frame of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.adapter import Adapter
from vmt.layers.deformable_encoder import Levels
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.layers.query_heads import BoxHeads
from vmt.layers.transformer import SelfAttention
from vmt.ops.frames import fold_frames, frame_chunks, unfold_frames
from vmt.structures.boxes import inverse_sigmoid
from vmt.utils.device import constant
from vmt.utils.precision import no_autocast


@dataclass(frozen=True)
class LayerState:
    """What one decoder layer leaves behind.

    Args:
        query: (B, Q, C) instance queries.
        boxes: (B, T, Q, 4) cxcywh in [0, 1] of the unpadded frame, with gradient.
        centres: (B, T, Q, 2) as (x, y): centres of the boxes that came *into* the layer, where the
            mask heads place the instance.
        box_query: (B, T, Q, C), one per frame.
    """

    query: Tensor
    boxes: Tensor
    centres: Tensor
    box_query: Tensor

    def select(self, clip: int, query_index: Tensor, frame_size: tuple[int, int]) -> QueryStates:
        """Queries of a clip.

        Args:
            clip: of the batch.
            query_index: (N,) int64.
            frame_size: (H, W) of the unpadded frames, in pixels.
        """
        centres = self.centres[clip][:, query_index].transpose(0, 1)
        return QueryStates(
            self.query[clip, query_index],
            self.boxes[clip][:, query_index].transpose(0, 1),
            centres * constant(frame_size[::-1], centres),
            self.box_query[clip][:, query_index].transpose(0, 1),
            frame_size,
        )


@dataclass(frozen=True)
class QueryStates:
    """N queries of one clip of T frames behind a decoder layer, see ``LayerState``.

    Args:
        query: (N, C).
        boxes_cxcywh: (N, T, 4) in [0, 1] of the unpadded frame.
        centres_px: (N, T, 2) as (x, y) in pixels of the unpadded frame.
        box_query: (N, T, C).
        frame_size: (H, W) of the unpadded frames, in pixels.
    """

    query: Tensor
    boxes_cxcywh: Tensor
    centres_px: Tensor
    box_query: Tensor
    frame_size: tuple[int, int]


class CrossAttention(MSDeformAttn):
    """Deformable attention with two output layers: one for the instance, one for the box query."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__(dim, num_levels, num_heads, num_points)
        self.output_proj_box = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.output_proj_box.weight)
        nn.init.zeros_(self.output_proj_box.bias)


class DecoderAdapter(Adapter):
    """Base of everything in DECODER_ADAPTERS: mixes the frames of a box query."""

    def forward(self, box_query: Tensor) -> Tensor:
        """(B, T, Q, C) -> (B, T, Q, C), between self attention and deformable attention."""
        raise NotImplementedError


class DecoderLayer(nn.Module):
    """One layer of SeqFormer's decoder (arXiv:2112.08275, section 3.2, Eq. 1 to 4).

    Args:
        dim: channels.
        num_levels: L.
        num_heads: M.
        num_points: K.
        ffn_dim: width of the feed-forward parts.
        dropout: in training.
        frame_chunk: frames sampled at once; bounds memory, changes nothing else.
        mixer: mixes the frames of the box queries, or None.
    """

    def __init__(
        self,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
        frame_chunk: int,
        mixer: DecoderAdapter | None = None,
    ) -> None:
        super().__init__()
        self.frame_chunk = frame_chunk
        self.mixer = mixer
        self.cross_attn = CrossAttention(dim, num_levels, num_heads, num_points)
        self.instance_attn = SelfAttention(dim, num_heads, dropout)
        self.box_attn = SelfAttention(dim, num_heads, dropout)
        # norm1 follows the cross attention, norm2 the self attention, norm3 the feed-forward part
        self.instance_norm1 = nn.LayerNorm(dim)
        self.instance_norm2 = nn.LayerNorm(dim)
        self.instance_norm3 = nn.LayerNorm(dim)
        self.instance_linear1 = nn.Linear(dim, ffn_dim)
        self.instance_linear2 = nn.Linear(ffn_dim, dim)
        self.box_norm1 = nn.LayerNorm(dim)
        self.box_norm2 = nn.LayerNorm(dim)
        self.box_norm3 = nn.LayerNorm(dim)
        self.box_linear1 = nn.Linear(dim, ffn_dim)
        self.box_linear2 = nn.Linear(ffn_dim, dim)
        self.frame_score = nn.Linear(dim, 1)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        box_query: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        levels: Levels,
    ) -> tuple[Tensor, Tensor]:
        """Update both kinds of queries.

        Args:
            query: (B, Q, C).
            box_query: (B, T, Q, C), or (B, 1, Q, C) before the first layer.
            position: (B, Q, C).
            reference: (B, T, Q, L, 2 or 4), of the padded frame.
            memory: (B*T, S, C).
            levels: layout of the tokens, for B*T frames.

        Returns:
            Instance queries (B, Q, C) and box queries (B, T, Q, C).
        """
        num_frames = reference.shape[1]
        query = self.instance_norm2(query + self.drop(self.instance_attn(query, position)))

        frames = box_query.shape[1]
        boxes = fold_frames(box_query)
        box_position = position.repeat_interleave(frames, dim=0)
        boxes = self.box_norm2(boxes + self.drop(self.box_attn(boxes, box_position)))
        boxes = unfold_frames(boxes, frames)
        if self.mixer is not None:
            boxes = self.mixer(boxes)

        # Box queries alone steer the sampling; both kinds read what it brings.
        steering = fold_frames((boxes + position[:, None]).expand(-1, num_frames, -1, -1))
        sampled = self._sample(steering, fold_frames(reference), memory, levels)
        sampled = unfold_frames(sampled, num_frames)  # (B, T, Q, C)
        boxes = self.box_norm1(boxes + self.drop(self.cross_attn.output_proj_box(sampled)))
        hidden = self.drop(F.relu_(self.box_linear1(boxes)))
        boxes = self.box_norm3(boxes + self.drop(self.box_linear2(hidden)))

        share = F.softmax(self.frame_score(boxes), dim=1)  # (B, T, Q, 1)
        gathered = (share * self.cross_attn.output_proj(sampled)).sum(1)
        query = self.instance_norm1(query + self.drop(gathered))
        hidden = self.drop(F.relu_(self.instance_linear1(query)))
        return self.instance_norm3(query + self.drop(self.instance_linear2(hidden))), boxes

    def _sample(self, query: Tensor, reference: Tensor, memory: Tensor, levels: Levels) -> Tensor:
        parts = []
        for rows in frame_chunks(memory.shape[0], self.frame_chunk):
            padding = levels.padding_mask[rows] if levels.padding_mask is not None else None
            parts.append(
                self.cross_attn.sample(
                    query[rows], reference[rows], memory[rows], levels.shapes, padding
                )
            )
        return torch.cat(parts)


class Decoder(nn.Module):
    """Learned queries -> tracklets of a clip.

    Args:
        num_layers: 6 as published.
        num_queries: 300 as published.
        dim: channels.
        num_levels: L.
        num_heads: M.
        num_points: K.
        ffn_dim: width of the feed-forward parts.
        dropout: in training.
        frame_chunk: frames sampled at once.
        mixer: makes the mixer of a layer; None for SeqFormer. The first layer has none: before it,
            box queries have no frames.
    """

    def __init__(
        self,
        num_layers: int,
        num_queries: int,
        dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
        frame_chunk: int,
        mixer: Callable[[], DecoderAdapter] | None = None,
    ) -> None:
        super().__init__()
        self.query_pos = nn.Parameter(torch.empty(num_queries, dim))
        self.query_content = nn.Parameter(torch.empty(num_queries, dim))
        nn.init.normal_(self.query_pos)
        nn.init.normal_(self.query_content)
        self.reference = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        self.layers = nn.ModuleList(
            DecoderLayer(
                dim,
                num_levels,
                num_heads,
                num_points,
                ffn_dim,
                dropout,
                frame_chunk,
                mixer() if mixer is not None and index > 0 else None,
            )
            for index in range(num_layers)
        )

    def forward(
        self, memory: Tensor, levels: Levels, num_frames: int, box_heads: BoxHeads
    ) -> list[LayerState]:
        """Decode clips.

        Args:
            memory: (B*T, S, C).
            levels: layout of the tokens, for B*T frames.
            num_frames: T.
            box_heads: refine the reference after each layer.

        Returns:
            One state per layer, first to last.
        """
        batch = memory.shape[0] // num_frames
        position = self.query_pos.expand(batch, -1, -1)
        query = self.query_content.expand(batch, -1, -1)
        box_query = query[:, None]
        # Boxes and all else that says where stay in fp32: a rounded logit moves a box by pixels.
        with no_autocast(memory.device):
            start = self.reference(self.query_pos).sigmoid()
        reference = start[None, None].expand(batch, num_frames, -1, -1)  # (B, T, Q, 2), then 4
        ratios = unfold_frames(levels.valid_ratios, num_frames)[:, :, None]  # (B, T, 1, L, 2)
        states = []
        for layer, box_head in zip(self.layers, box_heads, strict=True):
            scale = ratios if reference.shape[-1] == 2 else torch.cat([ratios, ratios], -1)
            scaled = reference[..., None, :] * scale  # (B, T, Q, L, 2 or 4)
            query, box_query = layer(query, box_query, position, scaled, memory, levels)
            with no_autocast(memory.device):
                delta = box_head(box_query.to(self.query_pos.dtype)).float()
            origin = inverse_sigmoid(reference.float())
            if reference.shape[-1] == 2:
                delta = torch.cat([delta[..., :2] + origin, delta[..., 2:]], dim=-1)
            else:
                delta = delta + origin
            boxes = delta.sigmoid()
            states.append(LayerState(query, boxes, origin[..., :2].sigmoid(), box_query))
            reference = boxes.detach()
        return states
