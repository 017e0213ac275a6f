"""What every refiner takes and gives: coarse masks and features of one clip, sharper masks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class RefinerInput:
    """One clip: T frames, N tracklets.

    Args:
        frames: (T, 3, H, W), normalised as the backbone saw them.
        stride4: (T, C4, h4, w4) backbone map.
        stride2: (T, C2, h2, w2) backbone map, or None when the backbone has none.
        fused: (T, C, h8, w8), what the coarse head's mask features are made from.
        coarse_logits: (N, T, h8, w8).
        query: (N, C) instance queries of the last decoder layer.
        centres_px: (N, T, 2) as (x, y), where the coarse head placed the instances.
        boxes_cxcywh: (N, T, 4) in [0, 1] of the unpadded frame.
        frame_size: (H, W) of the unpadded frames, in pixels.
    """

    frames: Tensor
    stride4: Tensor
    stride2: Tensor | None
    fused: Tensor
    coarse_logits: Tensor
    query: Tensor
    centres_px: Tensor
    boxes_cxcywh: Tensor
    frame_size: tuple[int, int]


@dataclass(frozen=True)
class RefinerOutput:
    """Sharper masks.

    Args:
        mask_logits: (N, T, h, w) at stride ``mask_stride``.
        mask_stride: input pixels per cell.
        stage_logits: (N, T, h4, w4) of the stage in between, for losses and for people to look at.
    """

    mask_logits: Tensor
    mask_stride: int
    stage_logits: Tensor


class Refiner(nn.Module):
    """Base of everything in the registry REFINERS."""

    def forward(self, inputs: RefinerInput) -> RefinerOutput:
        """Refine the masks of one clip."""
        raise NotImplementedError
