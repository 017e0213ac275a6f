"""IDOL's losses: of the objects of key frames, and of embeddings across frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.contrastive import Choice, any_of
from vmt.modeling.criteria.losses import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    box_l1_loss,
    class_loss,
    dice_loss,
    giou_loss,
    mask_focal_loss,
)
from vmt.modeling.criteria.ota import OtaMatch, SimOta
from vmt.modeling.criteria.set_criterion import masks_at_stride, mean_tracklets, sum_of
from vmt.modeling.criteria.weights import WeightedLosses, loss_weights
from vmt.structures.frame_targets import FrameTargets

#: (decoder layer, key frame of the batch, (N,) query indices) -> (N, h, w) mask logits
MasksOf = Callable[[int, int, Tensor], Tensor]


@dataclass(frozen=True)
class Predictions:
    """What a decoder layer says about B frames.

    Args:
        logits: (B, Q, num_classes).
        boxes: (B, Q, 4) cxcywh in [0, 1] of the frame before padding.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class IDOLCriterion(WeightedLosses):
    """IDOL's losses (arXiv:2207.10661, sections 3.1 and 3.2).

    Names of the key frames' losses are those of ``SetCriterion``; ``loss_reid`` is the contrastive
    loss, ``loss_reid_aux`` the one of cosines.

    Args:
        weights: by name without the suffix of the layer.
        focal: alpha and gamma of classes and masks.
        ota: assigns queries to objects, in every layer anew.
        mask_stride: input pixels per cell of the mask logits.
        choose: negatives of ``loss_reid_aux``.
    """

    weights: Mapping[str, float]
    focal: tuple[float, float] = (FOCAL_ALPHA, FOCAL_GAMMA)
    ota: SimOta = field(default_factory=SimOta)
    mask_stride: int = 4
    choose: Choice = any_of

    @classmethod
    def from_config(cls, cfg: CfgNode) -> IDOLCriterion:
        """Read ``MODEL.LOSS`` and ``MODEL.IDOL``."""
        loss, association = cfg.MODEL.LOSS, cfg.MODEL.IDOL
        return cls(
            {
                **loss_weights(cfg),
                "loss_reid": association.CONTRASTIVE_WEIGHT,
                "loss_reid_aux": association.COSINE_WEIGHT,
            },
            (loss.FOCAL_ALPHA, loss.FOCAL_GAMMA),
        )

    def match(self, layer: Predictions, targets: Sequence[FrameTargets]) -> list[OtaMatch]:
        """Queries of B key frames and their objects."""
        frames = zip(layer.logits, layer.boxes, targets, strict=True)
        return [self.ota(logits, boxes, t.labels, t.boxes_cxcywh) for logits, boxes, t in frames]

    def frame_losses(
        self,
        layers: Sequence[Predictions],
        matches: Sequence[Sequence[OtaMatch]],
        targets: Sequence[FrameTargets],
        masks_of: MasksOf,
    ) -> dict[str, Tensor]:
        """Losses of B key frames, not weighted.

        As published, each layer's sums are divided by its number of assigned queries; ours is the
        mean of the processes.

        Args:
            layers: first to last.
            matches: B per layer.
            targets: B, with boxes relative to the frame before padding.
            masks_of: called once per layer and frame, with at least one query; masks may be padded
                on the right and below.
        """
        losses: dict[str, Tensor] = {}
        for index, (layer, found) in enumerate(zip(layers, matches, strict=True)):
            count = mean_tracklets([match.query_index for match in found], layer.logits.device)
            suffix = "" if index == len(layers) - 1 else f"_{index}"
            parts = [
                self._of_frame(layer, b, match, target, _masks(masks_of, index, b), count)
                for b, (match, target) in enumerate(zip(found, targets, strict=True))
            ]
            losses |= {name + suffix: sum_of([p[name] for p in parts]) for name in parts[0]}
        return losses

    def _of_frame(
        self,
        layer: Predictions,
        frame: int,
        match: OtaMatch,
        target: FrameTargets,
        masks_of: Callable[[Tensor], Tensor],
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        logits, boxes = layer.logits[frame], layer.boxes[frame]
        query, index = match.query_index, match.target_index
        losses = {"loss_ce": class_loss(logits, query, target.labels[index], count, *self.focal)}
        if not len(query):  # tied to the graph, so that every process has the same losses
            names = ("loss_bbox", "loss_giou", "loss_mask", "loss_dice")
            return losses | dict.fromkeys(names, 0.0 * boxes.sum())
        matched, boxes_gt = boxes[query][:, None], target.boxes_cxcywh[index][:, None]
        masks = masks_of(query)[:, None]
        masks_gt = masks_at_stride(target.masks[index][:, None], self.mask_stride, masks)
        return losses | {
            "loss_bbox": box_l1_loss(matched, boxes_gt, count),
            "loss_giou": giou_loss(matched, boxes_gt, count),
            "loss_mask": mask_focal_loss(masks, masks_gt, count, *self.focal),
            "loss_dice": dice_loss(masks, masks_gt, count),
        }

    def embedding_losses(
        self,
        logits: Tensor,
        masks: Tensor,
        labels: Tensor,
        masks_gt: Tensor,
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        """Losses of classes and masks that are known.

        Args:
            logits: (N, num_classes).
            masks: (M, h, w) logits of those that count, perhaps padded.
            labels: (N,) int64; -1 is background.
            masks_gt: (M, H, W) bool.
            count: divisor of the sums.
        """
        query = (labels >= 0).nonzero()[:, 0]
        losses = {"loss_ce": class_loss(logits, query, labels[query], count, *self.focal)}
        if not len(masks):  # tied to the graph, so that every process has the same losses
            return losses | dict.fromkeys(("loss_mask", "loss_dice"), masks.sum())
        masks = masks[:, None]
        masks_gt = masks_at_stride(masks_gt[:, None], self.mask_stride, masks)
        return losses | {
            "loss_mask": mask_focal_loss(masks, masks_gt, count, *self.focal),
            "loss_dice": dice_loss(masks, masks_gt, count),
        }


def _masks(masks_of: MasksOf, layer: int, frame: int) -> Callable[[Tensor], Tensor]:
    return lambda query: masks_of(layer, frame, query)
