"""Instances of a single image, as Mask2Former and MaskDINO are published for COCO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.video_model import FrameOutputs
from vmt.structures.boxes import cxcywh_to_xyxy
from vmt.utils.device import constant


@dataclass(frozen=True)
class Instances:
    """N pairs of a query and a class, by descending score.

    Args:
        scores: (N,) in [0, 1], class probability times the mean probability inside the mask.
        labels: (N,) int64.
        masks: (N, h, w) bool.
        boxes_xyxy_px: (N, 4), the box head's, cut to the image; None for networks without.
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor
    boxes_xyxy_px: Tensor | None = None


def image_instances(
    frame: FrameOutputs, size: tuple[int, int], top_k: int = 100, *, mask_quality: bool = True
) -> Instances:
    """The best pairs of a query and a class; a query may stand in several.

    Source: Mask2Former's code: pairs are chosen by class probability alone.

    Args:
        frame: what the network says of the image.
        size: (h, w) of the masks, in pixels.
        top_k: how many pairs at most.
        mask_quality: False leaves the scores at the class probability.
    """
    probs = frame.class_probs()
    best = probs.flatten().topk(min(top_k, probs.numel()))
    query, labels = best.indices // probs.shape[1], best.indices % probs.shape[1]
    scores, masks = [], []
    used, row = query.unique(return_inverse=True)
    for mask in frame.masks(used).float():
        logits = _resized(mask, frame, size)
        inside = logits > 0
        scores.append((logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        masks.append(inside)
    total = best.values * torch.stack(scores)[row] if mask_quality else best.values
    order = total.argsort(descending=True, stable=True)
    boxes = None
    if frame.boxes_cxcywh is not None:
        sides = constant((size[1], size[0]) * 2, frame.boxes_cxcywh)
        boxes = cxcywh_to_xyxy(frame.boxes_cxcywh[query[order]]).clamp(0, 1) * sides
    return Instances(total[order], labels[order], torch.stack(masks)[row[order]], boxes)


def _resized(mask: Tensor, frame: FrameOutputs, size: tuple[int, int]) -> Tensor:
    """(h, w) cells -> (H, W) pixels: by the stride, cut, to the size."""
    padded = [cells * frame.mask_stride for cells in mask.shape]
    whole = F.interpolate(mask[None, None], padded, mode="bilinear")
    cut = whole[..., : frame.input_size[0], : frame.input_size[1]]
    return F.interpolate(cut, size, mode="bilinear")[0, 0]
