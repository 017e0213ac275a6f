"""Matching and losses of MaskDINO: all outputs of the decoder, proposals and denoising queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from vmt.modeling.criteria.matcher import Match, focal_cost
from vmt.modeling.criteria.ota import OtaMatch, SimOta
from vmt.modeling.criteria.point_criterion import CriterionResult, PointCriterion, Predictions
from vmt.modeling.criteria.point_masks import cross_entropy_cost, dice_cost, mask_losses
from vmt.modeling.criteria.point_sampling import PointSampler
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.criteria.weights import loss_weights
from vmt.modeling.maskdino.denoising import NoisyQueries
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_giou
from vmt.structures.frame_targets import FrameTargets
from vmt.utils.errors import ConfigError

#: Added to the areas that generalised IoU divides by, as published.
GIOU_EPSILON = 1e-6
#: Suffix of the losses of the encoder's proposals.
PROPOSALS = "_interm"
LOSSES = ("loss_ce", "loss_mask", "loss_dice", "loss_bbox", "loss_giou")
#: As published.
WEIGHTS = {"loss_ce": 4.0, "loss_mask": 5.0, "loss_dice": 5.0, "loss_bbox": 5.0, "loss_giou": 2.0}
#: One query per object, as MaskDINO; or several, by SimOTA with IDOL's costs, as RefineVIS.
MATCHERS = ("hungarian", "ota")


@dataclass(frozen=True)
class BoxPredictions(Predictions):
    """The same with boxes.

    Args:
        logits: (B, Q, num_classes).
        kernels: (B, Q, mask_dim), whose dots with the pixel map are the masks.
        boxes: (B, Q, 4) cxcywh in [0, 1] of the padded frame.
    """

    boxes: Tensor

    def without(self, present: Tensor | None) -> BoxPredictions:
        """The same without class, and without its gradient, where ``present`` (B, Q) is False."""
        if present is None:
            return self
        return replace(self, logits=self.logits.masked_fill(~present[..., None], -100.0))


class MaskDINOCriterion(PointCriterion[BoxPredictions]):
    """Matching per frame and output, and the losses of its pairs.

    Source: MaskDINO, arXiv:2206.02777, section 3.3 and its code; one-to-many assignment ("ota") in
    all places but the encoder's proposals as RefineVIS has it (arXiv:2306.04774, section 4.1).

    Args:
        weights: of losses and of the costs of matching.
        sampler: where masks are compared.
        focal_alpha: weight of the positives in the class loss and cost.
        focal_gamma: focusing exponent of both.
        deep_supervision: whether outputs before the last layer, and the proposals, are trained.
        matcher: one of ``MATCHERS``.

    Raises:
        ConfigError: an unknown matcher.
    """

    def __init__(
        self,
        weights: Mapping[str, float] = WEIGHTS,
        sampler: PointSampler | None = None,
        focal_alpha: float = FOCAL_ALPHA,
        focal_gamma: float = FOCAL_GAMMA,
        deep_supervision: bool = True,
        matcher: str = "hungarian",
    ) -> None:
        super().__init__(weights, sampler, deep_supervision)
        if matcher not in MATCHERS:
            raise ConfigError(
                f"MODEL.MASKDINO.MATCHER is {matcher!r}; give one of {', '.join(MATCHERS)}."
            )
        self.focal = (focal_alpha, focal_gamma)
        self.one_to_many = matcher == "ota"
        self.ota = SimOta()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskDINOCriterion:
        """Read ``MODEL.LOSS`` and ``MODEL.MASKDINO.MATCHER``."""
        loss = cfg.MODEL.LOSS
        return cls(
            loss_weights(cfg),
            PointSampler(loss.MASK_POINTS),
            loss.FOCAL_ALPHA,
            loss.FOCAL_GAMMA,
            loss.DEEP_SUPERVISION,
            cfg.MODEL.MASKDINO.MATCHER,
        )

    def __call__(
        self,
        outputs: Mapping[str, BoxPredictions],
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
            name: output.of_queries(slice(0 if name == PROPOSALS else first, None))
            for name, output in outputs.items()
        }
        matches = self._matches(queries, targets, pixel)
        losses: dict[str, Tensor] = {}
        for name, output in outputs.items():
            divisor = self._divisor(name, matches[name], count)
            found = self.losses(queries[name], matches[name], targets, pixel, divisor)
            losses |= {loss + name: value for loss, value in found.items()}
            if name == PROPOSALS:
                continue
            if noisy is None:
                losses |= {f"{loss}_dn{name}": pixel.new_zeros(()) for loss in LOSSES}
                continue
            pairs = [noisy.pairs(target) for target in targets]
            denoised = output.of_queries(slice(first)).without(noisy.present)
            found = self.losses(denoised, pairs, targets, pixel, count * noisy.groups)
            losses |= {f"{loss}_dn{name}": value for loss, value in found.items()}
        return CriterionResult(losses, matches)

    def _divisor(
        self, name: str, matches: Sequence[Match | OtaMatch], count: float | Tensor
    ) -> float | Tensor:
        """Objects; with several queries per object these queries, as IDOL has it."""
        if not self.one_to_many or name == PROPOSALS:
            return count
        queries = [match.query_index for match in matches]
        return mean_tracklets(queries, queries[0].device)

    # --- matching -------------------------------------------------------------------------------

    def _matches(
        self,
        queries: Mapping[str, BoxPredictions],
        targets: Sequence[FrameTargets],
        pixel: Tensor,
    ) -> dict[str, Sequence[Match | OtaMatch]]:
        """By suffix, one per frame."""
        names = [name for name in queries if name == PROPOSALS or not self.one_to_many]
        pairs = self.match([queries[name] for name in names], targets, pixel)
        one_to_one = dict(zip(names, pairs, strict=True))
        return {
            name: one_to_one[name] if name in one_to_one else self.assign(output, targets, pixel)
            for name, output in queries.items()
        }

    def assign(
        self, output: BoxPredictions, targets: Sequence[FrameTargets], pixel: Tensor
    ) -> Sequence[Match | OtaMatch]:
        """See ``PointCriterion``."""
        if not self.one_to_many:
            return super().assign(output, targets, pixel)
        frames = zip(output.logits, output.boxes, targets, strict=True)
        return [self.ota(logits, boxes, t.labels, t.boxes_cxcywh) for logits, boxes, t in frames]

    def pair_costs(
        self,
        output: BoxPredictions,
        frame: int,
        features: Tensor,
        target: FrameTargets,
        truth: Tensor,
    ) -> Tensor:
        """See ``PointCriterion``."""
        return self.cost(
            output.logits[frame].float(),
            output.boxes[frame].float(),
            output.kernels[frame].float() @ features,
            target,
            truth,
        )

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
            self.weights["loss_ce"] * focal_cost(logits[:, target.labels], *self.focal)
            + self.weights["loss_bbox"] * torch.cdist(boxes, wanted, p=1)
            - self.weights["loss_giou"] * overlap
            + self.weights["loss_mask"] * cross_entropy_cost(mask_logits, truth)
            + self.weights["loss_dice"] * dice_cost(mask_logits, truth)
        )

    # --- losses ---------------------------------------------------------------------------------

    def losses(
        self,
        output: BoxPredictions,
        matches: Sequence[Match | OtaMatch],
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
            query, chosen = match.query_index, match.target_index
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

    def embedding_class_loss(self, logits: Tensor, labels: Tensor, count: float | Tensor) -> Tensor:
        """See ``PointCriterion``."""
        query = (labels >= 0).nonzero()[:, 0]
        return class_loss(logits, query, labels[query], count, *self.focal)
