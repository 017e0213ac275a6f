"""Deformable DETR's decoder: learned queries, whose boxes every layer moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.layers.deformable_decoder import DeformableDecoderLayer
from vmt.layers.deformable_encoder import Levels
from vmt.layers.query_heads import BoxHeads
from vmt.modeling.condinst.options import CondInstOptions
from vmt.structures.boxes import inverse_sigmoid
from vmt.utils.device import constant
from vmt.utils.precision import no_autocast


@dataclass(frozen=True)
class QueryStates:
    """Queries of B frames behind a decoder layer.

    Args:
        embeds: (B, Q, C), what all heads take.
        boxes: (B, Q, 4) cxcywh in [0, 1] of the unpadded frame, with gradient.
        centres: (B, Q, 2) as (x, y): centres of the boxes that came *into* the layer, where the
            mask head places the object.
    """

    embeds: Tensor
    boxes: Tensor
    centres: Tensor

    def centres_px(self, size: tuple[int, int]) -> Tensor:
        """(B, Q, 2) as (x, y) in pixels of unpadded frames of (H, W) ``size``."""
        return self.centres * constant(size[::-1], self.centres)


class Decoder(nn.Module):
    """Learned queries -> objects of a frame (Deformable DETR, arXiv:2010.04159, appendix A.4).

    Args:
        options: see ``CondInstOptions``.
    """

    def __init__(self, options: CondInstOptions) -> None:
        super().__init__()
        self.query_pos = nn.Parameter(torch.empty(options.num_queries, options.dim))
        self.query_content = nn.Parameter(torch.empty(options.num_queries, options.dim))
        nn.init.normal_(self.query_pos)
        nn.init.normal_(self.query_content)
        self.reference = nn.Linear(options.dim, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(**options.attention) for _ in range(options.decoder_layers)
        )

    def forward(self, memory: Tensor, levels: Levels, box_heads: BoxHeads) -> list[QueryStates]:
        """Decode.

        Args:
            memory: (B, S, C).
            levels: layout of its tokens.
            box_heads: move the boxes after each layer.

        Returns:
            One state per layer, first to last.
        """
        batch = memory.shape[0]
        position = self.query_pos.expand(batch, -1, -1)
        x = self.query_content.expand(batch, -1, -1)
        # Boxes and all else that says where stay in fp32: a rounded logit moves a box by pixels.
        with no_autocast(memory.device):
            reference = self.reference(self.query_pos).sigmoid().expand(batch, -1, -1)
        ratios = levels.valid_ratios[:, None]  # (B, 1, L, 2)
        states = []
        for layer, box_head in zip(self.layers, box_heads, strict=True):
            scale = ratios if reference.shape[-1] == 2 else torch.cat([ratios, ratios], -1)
            places = reference[:, :, None] * scale  # (B, Q, L, 2 or 4)
            x = layer(x, position, places, memory, levels.shapes, levels.padding_mask)
            with no_autocast(memory.device):
                delta = box_head(x.to(self.query_pos.dtype)).float()
            origin = inverse_sigmoid(reference.float())
            if reference.shape[-1] == 2:  # before the first layer a query has no size yet
                delta = torch.cat([delta[..., :2] + origin, delta[..., 2:]], dim=-1)
            else:
                delta = delta + origin
            boxes = delta.sigmoid()
            states.append(QueryStates(x, boxes, origin[..., :2].sigmoid()))
            reference = boxes.detach()
        return states
