"""Costs and losses of masks at points, as Mask2Former has them (arXiv:2112.01527, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.criteria.losses import dice_loss, full_precision
from vmt.modeling.criteria.point_sampling import PointSampler, at_points


@full_precision
def cross_entropy_cost(mask_logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross entropy of every pair: (Q, P) and (G, P) in [0, 1] -> (Q, G)."""
    background = F.softplus(mask_logits).sum(1, keepdim=True)
    return (background - mask_logits @ truth.T) / truth.shape[1]


@full_precision
def dice_cost(mask_logits: Tensor, truth: Tensor) -> Tensor:
    """1 - dice of every pair, smoothed by 1: (Q, P) and (G, P) in [0, 1] -> (Q, G)."""
    inside = mask_logits.sigmoid()
    total = inside.sum(1, keepdim=True) + truth.sum(1)
    return 1 - (2 * inside @ truth.T + 1) / (total + 1)


def mask_losses(
    sampler: PointSampler, kernels: Tensor, pixel: Tensor, masks: Tensor, count: float | Tensor
) -> dict[str, Tensor]:
    """Cross entropy and dice of the matched queries of a frame, at its uncertain points.

    Args:
        sampler: chooses the points.
        kernels: (N, mask_dim), whose dots with ``pixel`` are the mask logits.
        pixel: (mask_dim, h, w).
        masks: (N, H, W) bool, of the objects.
        count: divisor of the sums.

    Returns:
        Scalars ``loss_mask`` and ``loss_dice``.
    """
    if not len(kernels):  # tied to the graph, so that every process has the same losses
        nothing = kernels.sum() + 0.0 * pixel.sum()
        return {"loss_mask": nothing, "loss_dice": nothing}
    logits = torch.einsum("nc,chw->nhw", kernels, pixel).float()
    points = sampler.uncertain(logits.detach())
    with torch.no_grad():
        truth = at_points(masks[:, None].float(), points)[:, 0]
    read = at_points(logits[:, None], points)[:, 0]  # (N, P)
    cross_entropy = F.binary_cross_entropy_with_logits(read, truth, reduction="none")
    return {
        "loss_mask": cross_entropy.mean(1).sum() / count,
        "loss_dice": dice_loss(read, truth, count),
    }
