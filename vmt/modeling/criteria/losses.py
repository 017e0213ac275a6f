"""Every loss of the detector and the refiner.

Masks and classes come in as logits; the sigmoid is applied here and only here. All arithmetic is
in fp32 (fp64 stays fp64), whatever autocast says. Sums over tracklets are divided by
``num_tracklets``: the mean number of target tracklets per process, at least 1.

Letters: Q queries, N matched tracklets, T frames.
Source: SeqFormer, arXiv:2112.08275, section 3.4, and its code for the reductions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.structures.boxes import cxcywh_to_xyxy, giou

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def full_precision(function: _Function) -> _Function:
    """Run ``function`` outside autocast, its half-precision arguments cast to fp32."""

    def raised(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        values = (*args, *kwargs.values())
        device = next((x.device.type for x in values if isinstance(x, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*map(raised, args), **{k: raised(v) for k, v in kwargs.items()})

    return wrapper  # type: ignore[return-value]


@full_precision
def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA
) -> Tensor:
    """Cross entropy that weighs well-classified entries down (arXiv:1708.02002, Eq. 5).

    Args:
        logits: any shape.
        targets: same shape, in {0, 1}.
        alpha: weight of the positives in [0, 1]; the negatives weigh 1 - alpha.
        gamma: exponent of the weight (1 - p_target)^gamma, 0 or at least 1.

    Returns:
        One loss per entry, same shape.
    """
    targets = targets.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probs = logits.sigmoid()
    miss = probs + targets - 2 * probs * targets  # 1 - probability of the target
    balance = (1 - alpha) + (2 * alpha - 1) * targets
    return balance * miss**gamma * cross_entropy


@full_precision
def class_loss(
    logits: Tensor,
    query_index: Tensor,
    labels: Tensor,
    num_tracklets: float | Tensor,
    alpha: float = FOCAL_ALPHA,
    gamma: float = FOCAL_GAMMA,
) -> Tensor:
    """Focal loss over all queries and classes of a clip; unmatched queries are background.

    Args:
        logits: (Q, num_classes).
        query_index: (N,) matched queries.
        labels: (N,) their classes.
        num_tracklets: divisor of the sum.
        alpha: see ``sigmoid_focal_loss``.
        gamma: see ``sigmoid_focal_loss``.

    Returns:
        Scalar.
    """
    targets = torch.zeros_like(logits)
    targets[query_index, labels] = 1
    return sigmoid_focal_loss(logits, targets, alpha, gamma).sum() / num_tracklets


@full_precision
def mask_focal_loss(
    mask_logits: Tensor,
    targets: Tensor,
    num_tracklets: float | Tensor,
    alpha: float = FOCAL_ALPHA,
    gamma: float = FOCAL_GAMMA,
) -> Tensor:
    """Focal loss averaged over the cells of a tube, summed over tubes.

    Args:
        mask_logits: (N, T, h, w).
        targets: (N, T, h, w) bool or in {0, 1}.
        num_tracklets: divisor of the sum.
        alpha: see ``sigmoid_focal_loss``.
        gamma: see ``sigmoid_focal_loss``.

    Returns:
        Scalar.
    """
    per_cell = sigmoid_focal_loss(mask_logits, targets, alpha, gamma)
    return per_cell.flatten(1).mean(1).sum() / num_tracklets


@full_precision
def dice_loss(
    mask_logits: Tensor,
    targets: Tensor,
    num_tracklets: float | Tensor,
    region: Tensor | None = None,
) -> Tensor:
    """Soft Dice over whole tubes, smoothed by 1 as in DETR, summed over tubes.

    Args:
        mask_logits: (N, T, h, w).
        targets: (N, T, h, w) bool or in {0, 1}.
        num_tracklets: divisor of the sum.
        region: (N, T, h, w) bool, cells that count; None for all. An empty region costs 0.

    Returns:
        Scalar.
    """
    probs, labels = mask_logits.sigmoid(), targets.to(mask_logits.dtype)
    if region is not None:
        probs, labels = probs * region, labels * region
    probs, labels = probs.flatten(1), labels.flatten(1)  # (N, T*h*w)
    overlap = 2 * (probs * labels).sum(1) + 1
    total = probs.sum(1) + labels.sum(1) + 1
    return (1 - overlap / total).sum() / num_tracklets


@full_precision
def box_l1_loss(boxes: Tensor, targets: Tensor, num_tracklets: float | Tensor) -> Tensor:
    """Absolute difference, summed over the four numbers, averaged over frames, summed over tubes.

    Args:
        boxes: (N, T, 4) cxcywh in [0, 1].
        targets: (N, T, 4), the same.
        num_tracklets: divisor of the sum.

    Returns:
        Scalar.
    """
    return (boxes - targets).abs().sum(-1).mean(1).sum() / num_tracklets


@full_precision
def giou_loss(
    boxes: Tensor, targets: Tensor, num_tracklets: float | Tensor, epsilon: float = 0.0
) -> Tensor:
    """1 - generalised IoU, averaged over frames, summed over tubes.

    Args:
        boxes: (N, T, 4) cxcywh in [0, 1].
        targets: (N, T, 4), the same.
        num_tracklets: divisor of the sum.
        epsilon: see ``giou``.

    Returns:
        Scalar.
    """
    loss = 1 - giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets), epsilon)
    return loss.mean(1).sum() / num_tracklets
