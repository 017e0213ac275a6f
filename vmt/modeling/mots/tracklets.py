"""Annotated tracklets of a training clip as a refiner meets them at inference.

Their boxes are those that the second stage makes of the best proposals, their masks those of the
mask head. Letters: T frames, G objects of a frame, N tracklets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from vmt.modeling.mots.detector import Pyramid, TwoStageDetector, boxes_in_px
from vmt.structures.boxes import pairwise_iou
from vmt.structures.frame_targets import FrameTargets
from vmt.structures.roi_masks import STRIDE, RoiMasks
from vmt.structures.track_window import ABSENT, FrameMaps, TrackWindow

#: A box that overlaps its object less is no detection of it; the object's own box stands in.
LEAST_IOU = 0.5


@torch.no_grad()
def detected_boxes(
    model: TwoStageDetector,
    features: Pyramid,
    targets: Sequence[FrameTargets],
    proposals: Sequence[Tensor],
) -> list[Tensor]:
    """The box that the detector gives to each object of T frames.

    Args:
        model: its second stage moves the boxes.
        features: of the frames.
        targets: T.
        proposals: T times (P, 4) xyxy in pixels.

    Returns:
        T times (G, 4) xyxy in pixels.
    """
    truth = [boxes_in_px(target, features.padded).float() for target in targets]
    best = []
    for boxes, candidates in zip(truth, proposals, strict=True):
        candidates = torch.cat([candidates, candidates.new_zeros(1, 4)])  # never without any
        best.append(_or_own(candidates[pairwise_iou(boxes, candidates).argmax(1)], boxes))
    heads = model.roi_heads
    _, deltas = heads.box_predictor(heads.box_head(features.pool(heads.box_roi_pool, best)))
    labels = torch.cat([target.labels for target in targets])
    moved = heads.box_coder.decode(deltas, best).view(len(labels), -1 if len(labels) else 1, 4)
    own = moved[torch.arange(len(labels), device=labels.device), labels + 1]
    parts = own.split([len(boxes) for boxes in truth])
    return [
        _or_own(clip_boxes_to_image(part, size), boxes)
        for part, boxes, size in zip(parts, truth, features.sizes, strict=True)
    ]


def _or_own(boxes: Tensor, truth: Tensor) -> Tensor:
    """(G, 4) boxes, or the objects' own where they overlap those too little."""
    overlap = pairwise_iou(boxes, truth).diagonal()
    return torch.where((overlap >= LEAST_IOU)[:, None], boxes, truth)


def window_of(
    model: TwoStageDetector,
    frames: Tensor,
    features: Pyramid,
    targets: Sequence[FrameTargets],
    boxes_px: list[Tensor],
) -> TrackWindow:
    """The N tracklets of a clip, for a refiner; gradients reach queries and maps.

    Args:
        model: one that makes queries.
        frames: (T, 3, H, W), normalised and padded.
        features: of the frames.
        targets: T.
        boxes_px: T times (G, 4) xyxy in pixels.
    """
    regions = features.pool(model.roi_heads.mask_roi_pool, boxes_px)
    queries = model.queries(regions)
    assert queries is not None, "a network with a refiner makes queries"
    with torch.no_grad():
        logits = model.mask_logits(regions, [target.labels for target in targets])
    maps = FrameMaps.of(frames, features.maps, features.levels["8"])
    size = int(maps.stride4.shape[-2]), int(maps.stride4.shape[-1])
    tracklets = targets[0].num_tracks
    masks = logits.new_full((tracklets, len(frames), *size), ABSENT)
    parts = logits.split([len(boxes) for boxes in boxes_px])
    for t, (target, part, boxes) in enumerate(zip(targets, parts, boxes_px, strict=True)):
        crops = RoiMasks(part, boxes, features.sizes[t])
        masks[target.slots, t] = crops.pasted_logits(size, STRIDE)
    slots = torch.cat([target.slots for target in targets])
    total = queries.new_zeros(tracklets, queries.shape[1]).index_add(0, slots, queries)
    mean = total / slots.bincount(minlength=tracklets).clamp(min=1)[:, None]
    return TrackWindow(maps, masks, STRIDE, mean, features.sizes[0])
