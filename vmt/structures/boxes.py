"""Box formats, overlap of boxes, and the boxes of masks.

Formats: ``cxcywh`` centre and side lengths, ``xyxy`` left, top, right, bottom; x before y. Units
are those of the input, in [0, 1] of the frame or pixels. Overlaps are computed in fp32 at least:
the sides of an absent object's box are about 1e-6, less than fp16 resolves.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Boxes are moved in log-odds; this keeps those of 0 and 1 finite (Deformable DETR's code).
LOGIT_EPSILON = 1e-5


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh to (..., 4) xyxy, same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy to (..., 4) cxcywh, same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Log-odds of probabilities, both sides of the quotient at least ``LOGIT_EPSILON``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=LOGIT_EPSILON) / (1 - x).clamp(min=LOGIT_EPSILON))


def giou(boxes_xyxy: Tensor, others_xyxy: Tensor, epsilon: float = 0.0) -> Tensor:
    """Generalised IoU of boxes that lie side by side; shapes broadcast.

    IoU minus the share of the smallest enclosing box that neither covers (arXiv:1902.09630). Two
    boxes without any area between them count as 0.

    Args:
        boxes_xyxy: (..., 4), right >= left and bottom >= top.
        others_xyxy: (..., 4), the same.
        epsilon: added to both areas that are divided by.

    Returns:
        (...) in [-1, 1]; fp32, or fp64 if an input is.
    """
    boxes, others = _at_least_fp32(boxes_xyxy), _at_least_fp32(others_xyxy)
    intersection, union = _areas(boxes, others)
    outer_low = torch.minimum(boxes[..., :2], others[..., :2])
    outer_high = torch.maximum(boxes[..., 2:], others[..., 2:])
    enclosing = (outer_high - outer_low).clamp(min=0).prod(-1)
    outside = (enclosing - union) / _no_zero(enclosing + epsilon)
    return intersection / _no_zero(union + epsilon) - outside


def pairwise_giou(boxes_xyxy: Tensor, others_xyxy: Tensor, epsilon: float = 0.0) -> Tensor:
    """Generalised IoU of every box with every other one.

    Args:
        boxes_xyxy: (..., Q, 4).
        others_xyxy: (..., G, 4), leading axes as ``boxes_xyxy``.
        epsilon: see ``giou``.

    Returns:
        (..., Q, G) in [-1, 1]; fp32, or fp64 if an input is.
    """
    return giou(boxes_xyxy[..., :, None, :], others_xyxy[..., None, :, :], epsilon)


def pairwise_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU of every box with every other one; 0 where neither has an area.

    Args:
        boxes_xyxy: (Q, 4).
        others_xyxy: (G, 4).

    Returns:
        (Q, G) in [0, 1]; fp32, or fp64 if an input is.
    """
    boxes, others = _at_least_fp32(boxes_xyxy)[:, None], _at_least_fp32(others_xyxy)[None]
    intersection, union = _areas(boxes, others)
    return intersection / _no_zero(union)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tightest boxes around masks.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (..., 4) fp32 xyxy in pixels. Right and bottom are the outer edges, one more than the last
        index; an empty mask gives zeros.
    """
    if masks.dtype != torch.bool:
        raise ValueError(f"masks_to_boxes takes bool masks, not {masks.dtype}; threshold first.")
    x1, x2 = _extent(masks.any(-2))
    y1, y2 = _extent(masks.any(-1))
    return torch.stack([x1, y1, x2, y2], dim=-1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of the True cells on the last axis; 0, 0 if none."""
    size = occupied.shape[-1]
    index = torch.arange(size, device=occupied.device)
    first = torch.where(occupied, index, size).amin(-1)
    end = torch.where(occupied, index + 1, 0).amax(-1)
    first = torch.where(end > 0, first, 0)
    return first.float(), end.float()


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of xyxy boxes that lie side by side; shapes broadcast."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    return intersection, _area(boxes) + _area(others) - intersection


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _no_zero(x: Tensor) -> Tensor:
    """Ones in place of zeros: what is divided by them is zero as well."""
    return torch.where(x == 0, torch.ones_like(x), x)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
