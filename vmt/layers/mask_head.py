"""Mask features and the dynamic mask head: coarse masks at stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.dynamic_conv import (
    apply_dynamic_layers,
    num_dynamic_parameters,
    split_dynamic_parameters,
)
from vmt.layers.mlp import controller
from vmt.ops.frames import frame_chunks
from vmt.ops.resize import cell_centres_px, nearest
from vmt.ops.strips import values_at_once

#: Width of the dynamic layers (CondInst, arXiv:2003.05664, section 3.2).
DYNAMIC_WIDTH = 8
STRIDE = 8


def conv3x3(in_dim: int, out_dim: int) -> nn.Conv2d:
    """3x3, padding 1, bias 0, Kaiming-uniform weights (a=1) as in the published mask head."""
    layer = nn.Conv2d(in_dim, out_dim, 3, padding=1)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    assert layer.bias is not None, "mask head convolutions have a bias"
    nn.init.zeros_(layer.bias)
    return layer


class MaskHead(nn.Module):
    """Memory -> stride-8 feature maps; instance queries -> dynamic filters -> mask logits.

    Source: SeqFormer, arXiv:2112.08275, section 3.3, after CondInst.

    Args:
        dim: channels of the memory and the queries.
        mask_channels: channels of the map that the dynamic layers read.
    """

    def __init__(self, dim: int, mask_channels: int) -> None:
        super().__init__()
        self.widths = (2 + mask_channels, DYNAMIC_WIDTH, DYNAMIC_WIDTH, 1)
        self.controller = controller(dim, num_dynamic_parameters(self.widths))
        self.fpn = nn.ModuleDict({f"s{stride}": conv3x3(dim, dim) for stride in (32, 16, 8)})
        self.reduce = nn.ModuleList([conv3x3(dim, dim // 4), conv3x3(dim // 4, mask_channels)])

    def fuse(self, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Levels 0 to 2 of the memory -> the stride-8 map that all mask stages start from.

        Args:
            memory: (B, S, C).
            shapes: (H_l, W_l) per level.

        Returns:
            (B, C, h8, w8), before the last convolutions.
        """
        sizes = [h * w for h, w in shapes]
        parts = memory.split(sizes, dim=1)
        s8, s16, s32 = (
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(parts[:3], shapes[:3], strict=True)
        )
        x = F.relu(self.fpn["s32"](s32))
        x = F.relu(self.fpn["s16"](s16 + nearest(x, shapes[1])))
        fused: Tensor = s8 + nearest(x, shapes[0])
        return fused

    def mask_features(self, fused: Tensor) -> Tensor:
        """(B, C, h8, w8) -> (B, mask_channels, h8, w8), not negative."""
        x = F.relu(self.fpn["s8"](fused))
        for layer in self.reduce:
            x = F.relu(layer(x))
        return x

    def forward(self, query: Tensor, centres_px: Tensor, features: Tensor) -> Tensor:
        """Masks of the tracklets of one clip.

        Args:
            query: (N, C) instance queries.
            centres_px: (N, T, 2) as (x, y) in input pixels.
            features: (T, mask_channels, h8, w8).

        Returns:
            (N, T, h8, w8) logits.
        """
        layers = split_dynamic_parameters(self.controller(query), self.widths)
        size = (int(features.shape[-2]), int(features.shape[-1]))
        values = len(centres_px) * features.shape[1] * size[0] * size[1]
        chunk = max(values_at_once(features.device) // max(values, 1), 1)
        out = []
        for rows in frame_chunks(len(features), 0 if torch.is_grad_enabled() else chunk):
            offsets = relative_coordinates(centres_px[:, rows], size, STRIDE).transpose(1, 2)
            shared = features[rows].transpose(0, 1).expand(len(centres_px), -1, -1, -1, -1)
            out.append(apply_dynamic_layers(torch.cat([offsets, shared], dim=1), layers)[:, 0])
        return torch.cat(out, 1)

    @staticmethod
    def frame_logits(
        layers: Sequence[tuple[Tensor, Tensor]], centres_px: Tensor, features: Tensor
    ) -> Tensor:
        """(N, 2) centres and features of a frame -> (N, h, w) logits.

        The features are (channels, h, w), or (N, channels, h, w) where each has its own.
        """
        size = (int(features.shape[-2]), int(features.shape[-1]))
        offsets = relative_coordinates(centres_px, size, STRIDE)
        shared = features.expand(centres_px.shape[0], -1, -1, -1)
        return apply_dynamic_layers(torch.cat([offsets, shared], dim=1), layers)[:, 0]


def relative_coordinates(centres_px: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Instance centre minus cell centre, in pixels, not normalised.

    Args:
        centres_px: (..., 2) as (x, y).
        size: (h, w) of the map.
        stride: input pixels per cell.

    Returns:
        (..., 2, h, w) float32: dx, dy.
    """
    cells = cell_centres_px(size, stride, centres_px)
    return centres_px.float()[..., None, None] - cells
