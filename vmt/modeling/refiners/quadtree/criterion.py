"""What the quadtree refiner says about a clip, and the losses that train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.criteria.losses import FOCAL_ALPHA, FOCAL_GAMMA, dice_loss, full_precision
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.set_criterion import sum_of
from vmt.modeling.refiners.base import RefinerOutput
from vmt.modeling.refiners.criterion import RefinerCriterion
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree
from vmt.ops.resize import aligned_upsample2
from vmt.structures.clip import ClipTargets


@dataclass(frozen=True)
class QuadtreeOutput(RefinerOutput):
    """What the quadtree refiner says; ``stage_logits`` are its masks at H/4.

    Args:
        tree: P nodes by tracklet, frame, level, row and column.
        node_logits: (P,).
        tracklets: (N',) int64, which of the tracklets that came in the result is about; None: all.
        detector_logits: per level (N', T, h, w); in training only.
        regions: per level (N', T, h, w) bool, what the detector should mark; in training only.
    """

    tree: SequenceQuadtree
    node_logits: Tensor
    tracklets: Tensor | None
    detector_logits: tuple[Tensor, ...]
    regions: tuple[Tensor, ...]


class QuadtreeCriterion(RefinerCriterion):
    """Losses of the ``quadtree`` refiner on the queries matched in the last decoder layer.

    ``loss_mask_refine``, ``loss_mask_dice_refine``, ``loss_mask_bound_refine`` on the final mask as
    in ``RefinerCriterion``; ``loss_refine`` L1 of the nodes' probabilities (Mask Transfiner,
    arXiv:2111.13673, section 3.4); ``loss_inc`` and ``loss_inc_dice`` cross entropy and tube dice
    of the detector, averaged over levels. The paper gives no losses
    (docs/reference/released_code.md#losses).

    Args:
        strides: input pixels per cell of every level.
        mask_weight: weight of ``loss_mask_refine``.
        dice_weight: weight of ``loss_mask_dice_refine``.
        boundary_weight: weight of ``loss_mask_bound_refine``.
        node_weight: weight of ``loss_refine``.
        detector_weight: weight of ``loss_inc`` and of ``loss_inc_dice``.
        focal_alpha: weight of the positives in the focal loss.
        focal_gamma: its focusing exponent.
    """

    def __init__(
        self,
        strides: Sequence[int],
        mask_weight: float = 2.0,
        dice_weight: float = 5.0,
        boundary_weight: float = 5.0,
        node_weight: float = 2.0,
        detector_weight: float = 1.0,
        focal_alpha: float = FOCAL_ALPHA,
        focal_gamma: float = FOCAL_GAMMA,
    ) -> None:
        super().__init__(
            mask_weight,
            dice_weight,
            boundary_weight,
            node_weight,
            focal_alpha=focal_alpha,
            focal_gamma=focal_gamma,
        )
        self.strides = tuple(strides)
        self.weights |= {"loss_inc": detector_weight, "loss_inc_dice": detector_weight}

    def measure(
        self,
        outputs: Sequence[RefinerOutput],
        targets: Sequence[ClipTargets],
        matches: Sequence[Match],
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        """Unweighted losses by name; tracklets that were not refined cost nothing.

        Raises:
            ValueError: lengths or shapes disagree, or there is no clip.
        """
        if not targets:
            raise ValueError("the refiner's losses need at least one clip.")
        per_clip = []
        for output, target, match in zip(outputs, targets, matches, strict=True):
            assert isinstance(output, QuadtreeOutput), "its own refiner's output"
            index = match.target_index
            if output.tracklets is not None:
                index = index[output.tracklets]
            per_clip.append(self._losses(output, target.masks[index], num_tracklets))
        return {name: sum_of([losses[name] for losses in per_clip]) for name in self.weights}

    def _losses(
        self, output: QuadtreeOutput, masks_gt: Tensor, num_tracklets: float | Tensor
    ) -> dict[str, Tensor]:
        if len(masks_gt) == 0:
            detected = sum_of([level.sum() for level in output.detector_logits])
            return dict.fromkeys(self.weights, (output.node_logits.sum() + detected) * 0.0)
        levels = list(zip(output.detector_logits, output.regions, strict=True))
        count = num_tracklets * len(levels)
        return {
            **self.final_mask_losses(
                aligned_upsample2(output.mask_logits), masks_gt, num_tracklets
            ),
            "loss_refine": node_l1_loss(
                output.node_logits, output.tree, masks_gt, self.strides, num_tracklets
            ),
            "loss_inc": sum_of([tube_bce_loss(*level, count) for level in levels]),
            "loss_inc_dice": sum_of([dice_loss(*level, count) for level in levels]),
        }


@full_precision
def tube_bce_loss(logits: Tensor, targets: Tensor, num_tracklets: float | Tensor) -> Tensor:
    """Binary cross entropy averaged over the cells of a tube, summed over tubes.

    Args:
        logits: (N, T, h, w).
        targets: (N, T, h, w) bool.
        num_tracklets: divisor of the sum.

    Returns:
        Scalar.
    """
    per_cell = F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), reduction="none"
    )
    return per_cell.flatten(1).mean(1).sum() / num_tracklets


@full_precision
def node_l1_loss(
    node_logits: Tensor,
    tree: SequenceQuadtree,
    masks_gt: Tensor,
    strides: Sequence[int],
    num_tracklets: float | Tensor,
) -> Tensor:
    """|probability - annotation| averaged over the nodes of a tracklet, summed over tracklets.

    The annotation is read at the pixel that a node stands for; beyond the frame is background.

    Args:
        node_logits: (P,).
        tree: P nodes.
        masks_gt: (N, T, H, W) bool, before padding.
        strides: input pixels per cell of every level.
        num_tracklets: divisor of the sum.

    Returns:
        Scalar; 0 for a tracklet without nodes.
    """
    H, W = masks_gt.shape[-2:]
    x, y = tree.centres_px(strides).unbind(1)
    inside = (x < W) & (y < H)
    labels = inside & masks_gt[tree.tracklet, tree.frame, y.clamp(max=H - 1), x.clamp(max=W - 1)]
    miss = (node_logits.sigmoid() - labels.to(node_logits.dtype)).abs()
    sums = miss.new_zeros(tree.num_tracklets).index_add(0, tree.tracklet, miss)
    nodes = tree.tracklet.bincount(minlength=tree.num_tracklets).clamp(min=1)
    return (sums / nodes).sum() / num_tracklets
