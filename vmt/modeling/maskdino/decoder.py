"""DINO's decoder: queries with anchor boxes, which every layer moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.layers.deformable_decoder import DeformableDecoderLayer
from vmt.layers.mlp import MLP
from vmt.layers.position import sine_features
from vmt.modeling.maskdino.heads import Heads
from vmt.modeling.maskdino.options import MaskDINOOptions
from vmt.structures.boxes import inverse_sigmoid
from vmt.utils.precision import no_autocast


@dataclass(frozen=True)
class QueryStates:
    """Queries before the first layer, or behind one.

    Args:
        embeds: (B, Q, C), what class and mask head take.
        boxes: (B, Q, 4) cxcywh in [0, 1] of the padded frame, with gradient.
    """

    embeds: Tensor
    boxes: Tensor


class Decoder(nn.Module):
    """DINO's decoder (arXiv:2203.03605), as MaskDINO uses it.

    Args:
        options: see ``MaskDINOOptions``.
    """

    def __init__(self, options: MaskDINOOptions) -> None:
        super().__init__()
        self.num_features = options.dim // 2
        self.position = MLP(4 * self.num_features, options.dim, options.dim, 2)
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(
                options.dim,
                options.num_levels,
                options.num_heads,
                options.num_points,
                options.decoder_ffn_dim,
                options.dropout,
            )
            for _ in range(options.decoder_layers)
        )

    def forward(
        self,
        content: Tensor,
        anchor_logits: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        heads: Heads,
        visible: Tensor | None = None,
    ) -> list[QueryStates]:
        """Decode.

        A layer's returned box starts from the anchor before it *with* gradient, while the anchor
        that the next layer attends to has none (DINO, section 3.5: look forward twice).

        Args:
            content: (B, Q, C).
            anchor_logits: (B, Q, 4) cxcywh in log-odds.
            memory: (B, S, C).
            shapes: (H_l, W_l) per level, in the order of the memory.
            heads: move the anchors, and hold the norm.
            visible: see ``DeformableDecoderLayer``.

        Returns:
            The queries that enter, un-normed as published, then one state per layer.
        """
        x = content
        origin = anchor_logits.float().sigmoid()
        states = [QueryStates(content, origin)]
        for layer in self.layers:
            anchors = origin.detach()
            with no_autocast(memory.device):
                position = self.position(box_features(anchors, self.num_features))
            reference = anchors[:, :, None].expand(-1, -1, len(shapes), -1)
            x = layer(x, position, reference, memory, shapes, visible=visible)
            embeds = heads.norm(x)
            with no_autocast(memory.device):
                boxes = (heads.box(embeds.float()) + inverse_sigmoid(origin)).sigmoid()
                origin = (heads.box(x.float()) + inverse_sigmoid(anchors)).sigmoid()
            states.append(QueryStates(embeds, boxes))
        return states


def box_features(boxes: Tensor, num_features: int) -> Tensor:
    """Sines and cosines of boxes.

    Args:
        boxes: (..., 4) cxcywh in [0, 1].
        num_features: per number.

    Returns:
        (..., 4 * num_features): of y, x, width and height, one after another.
    """
    features = [
        sine_features(boxes[..., axis] * (2 * math.pi), num_features) for axis in (1, 0, 2, 3)
    ]
    return torch.cat(features, dim=-1)
