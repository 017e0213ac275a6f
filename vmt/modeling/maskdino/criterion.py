"""Matching and losses of MaskDINO: all outputs of the decoder, proposals and denoising queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.losses import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    box_l1_loss,
    class_loss,
    full_precision,
    giou_loss,
)
from vmt.modeling.criteria.matcher import Match, focal_cost, match_costs
from vmt.modeling.criteria.point_masks import cross_entropy_cost, dice_cost, mask_losses
from vmt.modeling.criteria.point_sampling import PointSampler, at_points
from vmt.modeling.maskdino.denoising import NoisyQueries
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_giou
from vmt.structures.frame_targets import FrameTargets

#: Added to the areas that generalised IoU divides by, as published.
GIOU_EPSILON = 1e-6
#: Suffix of the losses of the encoder's proposals.
PROPOSALS = "_interm"
LOSSES = ("loss_ce", "loss_mask", "loss_dice", "loss_bbox", "loss_giou")


@dataclass(frozen=True)
class Predictions:
    """What the heads say of Q queries of B frames.

    Args:
        logits: (B, Q, num_classes).
        boxes: (B, Q, 4) cxcywh in [0, 1] of the padded frame.
        kernels: (B, Q, mask_dim), whose dots with the pixel map are the masks.
    """

    logits: Tensor
    boxes: Tensor
    kernels: Tensor

    def part(self, queries: slice) -> Predictions:
        """The same of some queries."""
        return Predictions(
            self.logits[:, queries], self.boxes[:, queries], self.kernels[:, queries]
        )

    def without(self, present: Tensor | None) -> Predictions:
        """The same without class, and without its gradient, where ``present`` (B, Q) is False."""
        if present is None:
            return self
        logits = self.logits.masked_fill(~present[..., None], -100.0)
        return Predictions(logits, self.boxes, self.kernels)


@dataclass(frozen=True)
class Weights:
    """Of losses, and of the costs by which queries are matched.

    Args:
        ce: of the focal class loss.
        mask: of the cross entropy at points.
        dice: of the dice loss at points.
        bbox: of the L1 loss.
        giou: of the generalised IoU loss.
    """

    ce: float = 4.0
    mask: float = 5.0
    dice: float = 5.0
    bbox: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class CriterionResult:
    """What the criterion says of a step.

    Args:
        losses: unweighted scalars by name.
        matches: by suffix of the losses, one per frame.
    """

    losses: dict[str, Tensor]
    matches: dict[str, list[Match]]


class MaskDINOCriterion:
    """Hungarian matching per frame and output, and the losses of its pairs.

    Source: MaskDINO, arXiv:2206.02777, section 3.3 and its code.

    Args:
        weights: of losses and of the costs of matching.
        sampler: where masks are compared.
        focal_alpha: weight of the positives in the class loss and cost.
        focal_gamma: focusing exponent of both.
        deep_supervision: whether outputs before the last layer, and the proposals, are trained.
    """

    def __init__(
        self,
        weights: Weights | None = None,
        sampler: PointSampler | None = None,
        focal_alpha: float = FOCAL_ALPHA,
        focal_gamma: float = FOCAL_GAMMA,
        deep_supervision: bool = True,
    ) -> None:
        self.weights = weights or Weights()
        self.sampler = sampler or PointSampler()
        self.focal = (focal_alpha, focal_gamma)
        self.deep_supervision = deep_supervision

    @classmethod
    def from_config(cls, cfg: CfgNode, sampler: PointSampler | None = None) -> MaskDINOCriterion:
        """Read ``MODEL.LOSS``; costs of the match have the weights of their losses."""
        loss = cfg.MODEL.LOSS
        masks = loss.MASK_WEIGHT, loss.DICE_WEIGHT
        return cls(
            Weights(loss.CLASS_WEIGHT, *masks, loss.BOX_WEIGHT, loss.GIOU_WEIGHT),
            sampler,
            loss.FOCAL_ALPHA,
            loss.FOCAL_GAMMA,
            loss.DEEP_SUPERVISION,
        )

    def weight(self, name: str) -> float:
        """Weight of a loss, whatever its suffix."""
        stem = "_".join(name.split("_")[:2])
        value: float = getattr(self.weights, stem.removeprefix("loss_"))
        return value

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses times their weights."""
        return {name: self.weight(name) * loss for name, loss in losses.items()}

    def __call__(
        self,
        outputs: Mapping[str, Predictions],
        noisy: NoisyQueries | None,
        targets: Sequence[FrameTargets],
        pixel: Tensor,
        count: float | Tensor,
    ) -> CriterionResult:
        """Match and measure.

        Args:
            outputs: by suffix of their losses: "" of the last layer, "_0", "_1", ... of the places
                before it, "_interm" of the proposals. All but these begin with ``noisy``.
            noisy: denoising queries, trained with their own objects as "_dn" losses.
            targets: B frames.
            pixel: (B, mask_dim, h, w).
            count: divisor of the sums.

        Raises:
            NonFiniteError: a matching cost is NaN or infinite.
        """
        if not self.deep_supervision:
            outputs = {"": outputs[""]}
        first = len(noisy) if noisy is not None else 0
        queries = {
            name: output.part(slice(0 if name == PROPOSALS else first, None))
            for name, output in outputs.items()
        }
        matched = self.match(list(queries.values()), targets, pixel)
        matches = dict(zip(queries, matched, strict=True))
        losses: dict[str, Tensor] = {}
        for name, output in outputs.items():
            found = self.losses(queries[name], matches[name], targets, pixel, count)
            losses |= {loss + name: value for loss, value in found.items()}
            if name == PROPOSALS:
                continue
            if noisy is None:
                losses |= {f"{loss}_dn{name}": pixel.new_zeros(()) for loss in LOSSES}
                continue
            pairs = [noisy.pairs(target) for target in targets]
            denoised = output.part(slice(first)).without(noisy.present)
            found = self.losses(denoised, pairs, targets, pixel, count * noisy.groups)
            losses |= {f"{loss}_dn{name}": value for loss, value in found.items()}
        return CriterionResult(losses, matches)

    # --- matching -------------------------------------------------------------------------------

    @torch.no_grad()
    def match(
        self, outputs: Sequence[Predictions], targets: Sequence[FrameTargets], pixel: Tensor
    ) -> list[list[Match]]:
        """Match every output of every frame, with one copy to the host per frame.

        Args:
            outputs: of the same queries, at several places of the network.
            targets: B frames.
            pixel: (B, mask_dim, h, w).

        Returns:
            Per output one match per frame.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
        """
        matches: list[list[Match]] = [[] for _ in outputs]
        for frame, target in enumerate(targets):
            points = self.sampler.shared(pixel.device)
            features = at_points(pixel[frame : frame + 1].float(), points)[0]  # (mask_dim, P)
            truth = at_points(target.masks[None].float(), points)[0]  # (G, P)
            costs = torch.stack(
                [
                    self.cost(
                        output.logits[frame].float(),
                        output.boxes[frame].float(),
                        output.kernels[frame].float() @ features,
                        target,
                        truth,
                    )
                    for output in outputs
                ]
            )
            for pairs, match in zip(matches, match_costs(costs, target.name), strict=True):
                pairs.append(match)
        return matches

    @full_precision
    def cost(
        self,
        logits: Tensor,
        boxes: Tensor,
        mask_logits: Tensor,
        target: FrameTargets,
        truth: Tensor,
    ) -> Tensor:
        """Cost of every pair of query and object of a frame.

        Args:
            logits: (Q, num_classes).
            boxes: (Q, 4) cxcywh in [0, 1].
            mask_logits: (Q, P) at points.
            target: G objects.
            truth: (G, P), their masks at these points, in [0, 1].

        Returns:
            (Q, G).
        """
        wanted = target.boxes_cxcywh
        overlap = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted), GIOU_EPSILON)
        return (
            self.weights.ce * focal_cost(logits[:, target.labels], *self.focal)
            + self.weights.bbox * torch.cdist(boxes, wanted, p=1)
            - self.weights.giou * overlap
            + self.weights.mask * cross_entropy_cost(mask_logits, truth)
            + self.weights.dice * dice_cost(mask_logits, truth)
        )

    # --- losses ---------------------------------------------------------------------------------

    def losses(
        self,
        output: Predictions,
        matches: Sequence[Match],
        targets: Sequence[FrameTargets],
        pixel: Tensor,
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        """Losses of B frames; queries without an object are background.

        Args:
            output: of B frames.
            matches: one per frame.
            targets: B.
            pixel: (B, mask_dim, h, w).
            count: divisor of the sums.

        Returns:
            ``LOSSES``, unweighted.
        """
        sums = dict.fromkeys(LOSSES, pixel.new_zeros((), dtype=torch.float32))
        for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):
            query, chosen = match
            boxes = output.boxes[frame, query][:, None]
            truth = target.boxes_cxcywh[chosen][:, None]
            logits, labels = output.logits[frame], target.labels[chosen]
            losses = {
                "loss_ce": class_loss(logits, query, labels, count, *self.focal),
                "loss_bbox": box_l1_loss(boxes, truth, count),
                "loss_giou": giou_loss(boxes, truth, count, GIOU_EPSILON),
            }
            kernels = output.kernels[frame, query]
            masks = target.masks[chosen]
            losses |= mask_losses(self.sampler, kernels, pixel[frame], masks, count)
            sums = {name: sums[name] + losses[name] for name in LOSSES}
        return sums
