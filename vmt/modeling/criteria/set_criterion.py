"""Losses of a batch of clips: matching and all decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.losses import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    box_l1_loss,
    class_loss,
    dice_loss,
    giou_loss,
    mask_focal_loss,
)
from vmt.modeling.criteria.matcher import HungarianClipMatcher, Match
from vmt.modeling.criteria.weights import WeightedLosses
from vmt.structures.clip import ClipTargets
from vmt.structures.decoder_outputs import DecoderOutputs

#: (decoder layer, clip of the batch, (N,) query indices) -> (N, T, h, w) mask logits
MasksOf = Callable[[int, int, Tensor], Tensor]


@dataclass(frozen=True)
class CriterionResult:
    """What the criterion measured.

    Args:
        losses: unweighted scalars by name.
        last_matches: matches of the last decoder layer, one per clip; a refiner trains on these.
        num_tracklets: what sums over tracklets were divided by.
        last_masks: per clip the mask logits (N, T, h, w) of those matches, as the losses saw them;
            None for a clip without tracklets.
    """

    losses: dict[str, Tensor]
    last_matches: list[Match]
    num_tracklets: float | Tensor
    last_masks: list[Tensor | None]


class SetCriterion(WeightedLosses):
    """SeqFormer's losses over all decoder layers.

    Names: ``loss_ce``, ``loss_bbox``, ``loss_giou``, ``loss_mask``, ``loss_dice`` for the last
    layer; with ``_0``, ``_1``, ... for the layers before it. Each layer is matched on its own.
    Source: SeqFormer, arXiv:2112.08275, section 3.4.

    Args:
        matcher: pairs queries with tracklets.
        class_weight: weight of the focal class loss.
        box_weight: weight of the L1 box loss.
        giou_weight: weight of the generalised IoU loss.
        mask_weight: weight of the focal mask loss.
        dice_weight: weight of the tube dice loss.
        focal_alpha: weight of the positives in both focal losses.
        focal_gamma: focusing exponent of both.
        deep_supervision: also train the layers before the last.
        mask_stride: input pixels per cell of the mask logits.
    """

    def __init__(
        self,
        matcher: HungarianClipMatcher,
        class_weight: float = 2.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        mask_weight: float = 2.0,
        dice_weight: float = 5.0,
        focal_alpha: float = FOCAL_ALPHA,
        focal_gamma: float = FOCAL_GAMMA,
        deep_supervision: bool = True,
        mask_stride: int = 4,
    ) -> None:
        self.matcher = matcher
        self.weights = {
            "loss_ce": class_weight,
            "loss_bbox": box_weight,
            "loss_giou": giou_weight,
            "loss_mask": mask_weight,
            "loss_dice": dice_weight,
        }
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.deep_supervision = deep_supervision
        self.mask_stride = mask_stride

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SetCriterion:
        """Read ``MODEL.LOSS``; weights of losses are also the costs of matching."""
        loss = cfg.MODEL.LOSS
        focal = {"focal_alpha": loss.FOCAL_ALPHA, "focal_gamma": loss.FOCAL_GAMMA}
        return cls(
            HungarianClipMatcher(loss.CLASS_WEIGHT, loss.BOX_WEIGHT, loss.GIOU_WEIGHT, **focal),
            loss.CLASS_WEIGHT,
            loss.BOX_WEIGHT,
            loss.GIOU_WEIGHT,
            loss.MASK_WEIGHT,
            loss.DICE_WEIGHT,
            deep_supervision=loss.DEEP_SUPERVISION,
            **focal,
        )

    def __call__(
        self, outputs: DecoderOutputs, targets: Sequence[ClipTargets], masks_of: MasksOf
    ) -> CriterionResult:
        """Match and measure.

        Args:
            outputs: predictions of all layers for B clips.
            targets: one per clip, on the same device.
            masks_of: called for every supervised layer of every clip that has tracklets, never
                with zero queries; returns mask logits (N, T, h, w) at ``mask_stride``, which may
                be padded on the right and below.

        Returns:
            Losses, matches of the last layer and the divisor.

        Raises:
            NonFiniteError: a matching cost is NaN or infinite.
            ValueError: the number of clips or the shapes of masks disagree.
        """
        if outputs.batch_size != len(targets):
            raise ValueError(f"{outputs.batch_size} clips were predicted, {len(targets)} targeted.")
        num_tracklets = mean_tracklets(targets, outputs.logits.device)
        last = outputs.num_layers - 1
        first = 0 if self.deep_supervision else last
        sums: dict[str, Tensor] = {}
        last_matches = []
        last_masks: list[Tensor | None] = []
        for clip, target in enumerate(targets):
            logits = outputs.logits[first:, clip]
            boxes = outputs.boxes_cxcywh[first:, clip]
            matches = self.matcher.match_layers(logits, boxes, target)
            last_matches.append(matches[-1])
            for layer, match in enumerate(matches, start=first):
                masks: Tensor | None = None
                query_losses = self._query_losses(
                    logits[layer - first], boxes[layer - first], target, match, num_tracklets
                )
                if len(match.query_index):
                    masks = masks_of(layer, clip, match.query_index)
                    mask_losses = self._mask_losses(masks, target, match, num_tracklets)
                else:  # tied to the graph, so that every process has the same losses to reduce
                    mask_losses = dict.fromkeys(("loss_mask", "loss_dice"), boxes.sum() * 0.0)
                losses = query_losses | mask_losses
                for name, loss in losses.items():
                    key = name if layer == last else f"{name}_{layer}"
                    sums[key] = sums[key] + loss if key in sums else loss
            last_masks.append(masks)
        return CriterionResult(sums, last_matches, num_tracklets, last_masks)

    def _query_losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        target: ClipTargets,
        match: Match,
        num_tracklets: float | Tensor,
    ) -> dict[str, Tensor]:
        query, index = match
        matched = boxes[:, query].transpose(0, 1)  # (N, T, 4)
        boxes_gt = target.boxes_cxcywh[index]
        return {
            "loss_ce": class_loss(
                logits,
                query,
                target.labels[index],
                num_tracklets,
                self.focal_alpha,
                self.focal_gamma,
            ),
            "loss_bbox": box_l1_loss(matched, boxes_gt, num_tracklets),
            "loss_giou": giou_loss(matched, boxes_gt, num_tracklets),
        }

    def _mask_losses(
        self, masks: Tensor, target: ClipTargets, match: Match, num_tracklets: float | Tensor
    ) -> dict[str, Tensor]:
        masks_gt = masks_at_stride(target.masks[match.target_index], self.mask_stride, masks)
        return {
            "loss_mask": mask_focal_loss(
                masks, masks_gt, num_tracklets, self.focal_alpha, self.focal_gamma
            ),
            "loss_dice": dice_loss(masks, masks_gt, num_tracklets),
        }


def mean_tracklets(targets: Sequence[Sized], device: torch.device) -> float | Tensor:
    """Target tracklets (or objects) of this process's batch, see ``mean_count``."""
    return mean_count(sum(map(len, targets)), device)


def mean_count(count: float, device: torch.device) -> float | Tensor:
    """A count averaged over processes, at least 1.

    Args:
        count: of this process.
        device: where the numbers of the processes are added up.

    Returns:
        A float in a single process, else a scalar tensor: nothing waits for the device.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return max(float(count), 1.0)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).clamp(min=1)


def masks_at_stride(masks: Tensor, stride: int, like: Tensor) -> Tensor:
    """Sample annotated masks at the centres of a coarser grid; padding is background.

    Args:
        masks: (N, T, H, W) bool before padding.
        stride: pixels per cell; rows and columns stride // 2, stride // 2 + stride, ... are taken.
        like: (N, T, h, w), the predictions they are held against, padded on the right and below.

    Returns:
        (N, T, h, w) bool.

    Raises:
        ValueError: the predictions are smaller than the frames or differ in N or T.
    """
    sampled = masks[..., stride // 2 :: stride, stride // 2 :: stride]
    h, w = like.shape[-2:]
    if sampled.shape[:2] != like.shape[:2] or sampled.shape[-2] > h or sampled.shape[-1] > w:
        raise ValueError(
            f"mask logits {tuple(like.shape)} cannot hold masks {tuple(masks.shape)} "
            f"at stride {stride}, which take {tuple(sampled.shape)}."
        )
    return padded(sampled, (h, w))


def padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) masks with background on the right and below, up to ``size``."""
    missing = size[0] - masks.shape[-2], size[1] - masks.shape[-1]
    return masks if missing == (0, 0) else F.pad(masks, (0, missing[1], 0, missing[0]))


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Sum of scalars, at least one."""
    return torch.stack(tuple(values)).sum()
