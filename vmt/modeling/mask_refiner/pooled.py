"""Tracklets cut out of their frames, and a query pooled under the mask: no detector is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.mask_refiner.prompt import STRIDE, STRIDES, prompt_of
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.video_model import MaskRefinerModel, ModelOptions
from vmt.ops.colour_cue import colour_cues
from vmt.ops.crops import TubeCrop, follow
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.device import constant

#: Groups of every group norm outside the backbone.
GROUPS = 8
#: Surroundings that are cut out on each side: share of the object's longer side, and least number
#: of pixels, wider than any error of a coarse mask.
MARGIN, MIN_MARGIN_PX = 0.1, 24


class MaskPoolQuery(nn.Module):
    """The query of a tracklet from its mask: what is inside, and what surrounds it.

    Args:
        dim: channels of the features and of the query.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        """Pool over space and time.

        Args:
            features: (T, C, h, w).
            inside: (T, h, w) in [0, 1], share of each cell that the mask covers.

        Returns:
            (1, C).
        """
        pooled = []
        for weight in (inside, 1 - inside):
            total = torch.einsum("tchw,thw->c", features, weight)
            pooled.append(total / weight.sum().clamp(min=1e-3))
        query: Tensor = self.mlp(torch.cat(pooled)[None])
        return query


class CutOutModel(MaskRefinerModel):
    """Encodes a tracklet that is cut out of every frame: RGB, the coarse mask, and colour cues.

    Args:
        options: see ``ModelOptions``.
        backbone: with four input channels, one more per colour cue, and a stride-2 map.
        dim: channels of the stride-8 map and of the query.
        embed_dim: channels of the refiner's maps.
        crop_sizes: shortest and longest side of cut-outs in pixels, see ``follow``.
        colour_radii_px: of ``colour_cues``; none: no cues.
    """

    def __init__(
        self,
        options: ModelOptions,
        backbone: Backbone,
        dim: int,
        embed_dim: int,
        crop_sizes: tuple[int, int],
        colour_radii_px: Sequence[int],
    ) -> None:
        super().__init__(options)
        self.backbone = backbone
        self.laterals = nn.ModuleDict(
            {str(s): nn.Conv2d(backbone.channels[s], dim, 1) for s in (8, 16, 32)}
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(GROUPS, dim), nn.ReLU()
        )
        self.stride2 = nn.Conv2d(backbone.channels[2], embed_dim, 1)
        self.query = MaskPoolQuery(dim)
        self.crop_sizes = crop_sizes
        self.colour_radii_px = tuple(colour_radii_px)

    def cut_out(self, coarse: Tensor) -> TubeCrop:
        """Windows that follow the object of (T, H, W) bool, with a pixel in every frame."""
        return follow(coarse, MARGIN, MIN_MARGIN_PX, *self.crop_sizes)

    def refiner_input(
        self, frames: Tensor, coarse: Tensor, crop: TubeCrop, masks_gt: Tensor | None = None
    ) -> RefinerInput:
        """One tracklet as a refiner reads it.

        Args:
            frames: (T, 3, H, W) RGB in [0, 255].
            coarse: (T, H, W) bool.
            crop: see ``cut_out``.
            masks_gt: (1, T, h, w) bool, cut out, in training.
        """
        pixels = crop.cut(frames, self.pixel_mean)  # (T, 3, h, w)
        pixels = (pixels - self.pixel_mean) / self.pixel_std
        share = crop.cut(coarse[:, None])  # (T, 1, h, w)
        cues = colour_cues(pixels, share, self.colour_radii_px)
        maps = self.backbone(torch.cat([pixels, 2 * share - 1, cues], dim=1))
        top = self.laterals["32"](maps[32])
        for stride in (16, 8):
            side = self.laterals[str(stride)](maps[stride])
            top = side + F.interpolate(top, side.shape[-2:], mode="nearest")
        fused = self.fuse(top)
        boxes_px = masks_to_boxes(share[None, :, 0] > 0.5)  # (1, T, 4) xyxy
        boxes = xyxy_to_cxcywh(boxes_px / constant(crop.size[::-1] * 2, boxes_px))
        prompt = prompt_of(share, levels=len(STRIDES))
        return RefinerInput(
            frames=pixels,
            stride4=maps[4],
            stride2=self.stride2(maps[2]),
            fused=fused,
            coarse_logits=prompt.coarse_logits,
            query=self.query(fused, F.avg_pool2d(share, STRIDE)[:, 0]),
            centres_px=boxes[..., :2] * constant(crop.size[::-1], boxes),
            boxes_cxcywh=boxes,
            frame_size=crop.size,
            masks_gt=masks_gt,
            given=prompt.given,
            coarse_levels=prompt.coarse_levels,
        )


def cut_targets(masks_gt: Tensor, crop: TubeCrop) -> ClipTargets:
    """The annotation of one tracklet, (T, H, W) bool, as it is in its cut-outs."""
    masks = (crop.cut(masks_gt[:, None])[:, 0] >= 0.5)[None]  # (1, T, h, w)
    boxes_px = masks_to_boxes(masks)
    return ClipTargets(
        labels=torch.zeros(1, dtype=torch.int64, device=masks.device),
        boxes_cxcywh=xyxy_to_cxcywh(boxes_px / constant(crop.size[::-1] * 2, boxes_px)).clamp(
            min=1e-6
        ),
        masks=masks,
        valid=masks.flatten(2).any(2),
    )
