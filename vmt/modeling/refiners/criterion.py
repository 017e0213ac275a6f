"""Losses of refined masks, for every refiner."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vmt.modeling.criteria.losses import FOCAL_ALPHA, FOCAL_GAMMA, dice_loss, mask_focal_loss
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.set_criterion import masks_at_stride, padded, sum_of
from vmt.modeling.refiners.base import RefinerOutput
from vmt.modeling.refiners.incoherent_region import RegionRule, dilate, incoherent_region
from vmt.ops.resize import aligned_upsample2
from vmt.structures.clip import ClipTargets

#: Input pixels per cell of a stage's masks after their doubling, and of the grid whose incoherent
#: region counts.
STAGE2_STRIDE = 2
REGION_STRIDE = 2


class RefinerCriterion:
    """Losses of a refiner's masks, and of its stage in between, on the last layer's matches.

    The released code keeps only names and weights of these; what they compute is our decision
    (section 3.2 of arXiv:2207.14012 trains on incoherent regions, without a formula).

    ``loss_mask_refine`` focal on the final mask, ``loss_mask_dice_refine`` tube dice on it,
    ``loss_mask_bound_refine`` tube dice inside the incoherent region of the annotation, dilated,
    ``loss_refine`` focal on the mask of the refiner's second stage.

    Args:
        mask_weight: weight of ``loss_mask_refine``.
        dice_weight: weight of ``loss_mask_dice_refine``.
        boundary_weight: weight of ``loss_mask_bound_refine``.
        stage2_weight: weight of ``loss_refine``.
        focal_alpha: weight of the positives in both focal losses.
        focal_gamma: focusing exponent of both.
        region_rule: see ``incoherent_region``.
        dilation_px: growth of the region, in cells of the final mask [P: 3 px].
    """

    def __init__(
        self,
        mask_weight: float = 2.0,
        dice_weight: float = 5.0,
        boundary_weight: float = 5.0,
        stage2_weight: float = 2.0,
        focal_alpha: float = FOCAL_ALPHA,
        focal_gamma: float = FOCAL_GAMMA,
        region_rule: RegionRule = "residue",
        dilation_px: int = 3,
    ) -> None:
        self.weights = {
            "loss_mask_refine": mask_weight,
            "loss_mask_dice_refine": dice_weight,
            "loss_mask_bound_refine": boundary_weight,
            "loss_refine": stage2_weight,
        }
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.region_rule: RegionRule = region_rule
        self.dilation_px = dilation_px

    def measure(
        self,
        outputs: Sequence[RefinerOutput],
        targets: Sequence[ClipTargets],
        matches: Sequence[Match],
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        """``RefinerLosses.measure``; masks of both stages are doubled first."""
        masks = [aligned_upsample2(out.mask_logits) for out in outputs]
        stages = [aligned_upsample2(out.stage_logits) for out in outputs]
        return self(masks, stages, targets, matches, num_tracklets)

    def __call__(
        self,
        mask_logits: Sequence[Tensor],
        stage2_logits: Sequence[Tensor],
        targets: Sequence[ClipTargets],
        matches: Sequence[Match],
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        """Measure the refined masks of a batch.

        Args:
            mask_logits: per clip (N, T, h, w) final logits in the order of the match, about
                (H, W), padded on the right and below.
            stage2_logits: per clip (N, T, h2, w2), about (H/2, W/2).
            targets: one per clip.
            matches: ``CriterionResult.last_matches``.
            num_tracklets: ``CriterionResult.num_tracklets``.

        Returns:
            Unweighted losses by name; a batch without tracklets gives zeros.

        Raises:
            ValueError: lengths or shapes disagree, or there is no clip.
        """
        if not targets:
            raise ValueError("the refiner's losses need at least one clip.")
        per_clip = [
            self._clip_losses(*clip, num_tracklets)
            for clip in zip(mask_logits, stage2_logits, targets, matches, strict=True)
        ]
        return {name: sum_of([losses[name] for losses in per_clip]) for name in self.weights}

    def _clip_losses(
        self,
        masks: Tensor,
        stage2: Tensor,
        target: ClipTargets,
        match: Match,
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        if len(match.target_index) == 0:
            return dict.fromkeys(self.weights, (masks.sum() + stage2.sum()) * 0.0)
        masks_gt = target.masks[match.target_index]
        stage2_gt = masks_at_stride(masks_gt, STAGE2_STRIDE, stage2)
        return {
            **self.final_mask_losses(masks, masks_gt, num_tracklets),
            "loss_refine": mask_focal_loss(
                stage2, stage2_gt, num_tracklets, self.focal_alpha, self.focal_gamma
            ),
        }

    def final_mask_losses(
        self, masks: Tensor, masks_gt: Tensor, num_tracklets: float | Tensor
    ) -> dict[str, Tensor]:
        """The three losses of a clip's final masks.

        Args:
            masks: (N, T, h, w) logits at stride 1, padded on the right and below.
            masks_gt: (N, T, H, W) bool, before padding.
            num_tracklets: divisor of the sums.
        """
        sampled = masks_at_stride(masks_gt, 1, masks)
        return {
            "loss_mask_refine": mask_focal_loss(
                masks, sampled, num_tracklets, self.focal_alpha, self.focal_gamma
            ),
            "loss_mask_dice_refine": dice_loss(masks, sampled, num_tracklets),
            "loss_mask_bound_refine": dice_loss(
                masks, sampled, num_tracklets, region=self._region(masks_gt, masks)
            ),
        }

    def _region(self, masks: Tensor, like: Tensor) -> Tensor:
        """(N, T, H, W) annotation to its dilated incoherent region in the shape of ``like``."""
        region = incoherent_region(masks, REGION_STRIDE, self.region_rule)
        region = region.repeat_interleave(REGION_STRIDE, -2).repeat_interleave(REGION_STRIDE, -1)
        h, w = like.shape[-2:]
        return dilate(padded(region[..., :h, :w], (h, w)), self.dilation_px)

    def weight(self, name: str) -> float:
        """Weight of a loss.

        Raises:
            KeyError: a name that this criterion does not give.
        """
        return self.weights[name]
