"""Matching and losses of Mask2Former, for every output of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.losses import full_precision
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.criteria.point_criterion import CriterionResult, PointCriterion, Predictions
from vmt.modeling.criteria.point_masks import cross_entropy_cost, dice_cost, mask_losses
from vmt.modeling.criteria.point_sampling import PointSampler
from vmt.modeling.criteria.weights import loss_weights
from vmt.structures.frame_targets import FrameTargets

#: As published.
WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


class Mask2FormerCriterion(PointCriterion[Predictions]):
    """Hungarian matching per frame and output, and the losses of its pairs.

    Source: Mask2Former, arXiv:2112.01527, sections 3.3 and 4.1, and its code.

    Args:
        weights: of losses and of the costs of matching; as a cost, of minus the probability.
        sampler: where masks are compared.
        no_object_weight: of queries without an object in the class loss.
        deep_supervision: whether outputs before the last layer are trained.
    """

    def __init__(
        self,
        weights: Mapping[str, float] = WEIGHTS,
        sampler: PointSampler | None = None,
        no_object_weight: float = 0.1,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(weights, sampler, deep_supervision)
        self.no_object_weight = no_object_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Mask2FormerCriterion:
        """Read ``MODEL.LOSS`` and ``MODEL.MASK2FORMER``."""
        return cls(
            loss_weights(cfg),
            PointSampler(cfg.MODEL.LOSS.MASK_POINTS),
            no_object_weight=cfg.MODEL.MASK2FORMER.NO_OBJECT_WEIGHT,
            deep_supervision=cfg.MODEL.LOSS.DEEP_SUPERVISION,
        )

    def __call__(
        self,
        outputs: Mapping[str, Predictions],
        targets: Sequence[FrameTargets],
        pixel: Tensor,
        count: float | Tensor,
    ) -> CriterionResult:
        """Match and measure.

        Args:
            outputs: by suffix of their losses: "" of the last layer, "_0", "_1", ... of the
                learned queries and the layers before it.
            targets: B frames.
            pixel: (B, mask_dim, h, w).
            count: divisor of the sums over objects.

        Raises:
            NonFiniteError: a matching cost is NaN or infinite.
        """
        if not self.deep_supervision:
            outputs = {"": outputs[""]}
        matched = self.match(list(outputs.values()), targets, pixel)
        matches: dict[str, Sequence[Match | OtaMatch]] = dict(zip(outputs, matched, strict=True))
        losses: dict[str, Tensor] = {}
        for suffix, output in outputs.items():
            measured = self.losses(output, matches[suffix], targets, pixel, count)
            losses |= {name + suffix: value for name, value in measured.items()}
        return CriterionResult(losses, matches)

    def pair_costs(
        self,
        output: Predictions,
        frame: int,
        features: Tensor,
        target: FrameTargets,
        truth: Tensor,
    ) -> Tensor:
        """See ``PointCriterion``."""
        masks = output.kernels[frame].float() @ features
        return self.cost(output.logits[frame], masks, target.labels, truth)

    @full_precision
    def cost(self, logits: Tensor, mask_logits: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
        """Cost of every pair of query and object of a frame.

        Args:
            logits: (Q, num_classes + 1).
            mask_logits: (Q, P) at points.
            labels: (G,).
            truth: (G, P), masks of the objects at these points, in [0, 1].

        Returns:
            (Q, G).
        """
        return (
            -self.weights["loss_ce"] * logits.softmax(-1)[:, labels]
            + self.weights["loss_mask"] * cross_entropy_cost(mask_logits, truth)
            + self.weights["loss_dice"] * dice_cost(mask_logits, truth)
        )

    def losses(
        self,
        output: Predictions,
        matches: Sequence[Match | OtaMatch],
        targets: Sequence[FrameTargets],
        pixel: Tensor,
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        """Losses of B frames; queries without an object are "no object".

        Args:
            output: of B frames.
            matches: one per frame.
            targets: B.
            pixel: (B, mask_dim, h, w).
            count: divisor of the sums over objects.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice``, unweighted.
        """
        parts = []
        labels = output.logits.new_full(output.logits.shape[:2], -1, dtype=torch.int64)
        for frame, (match, target) in enumerate(zip(matches, targets, strict=True)):
            query, chosen = match.query_index, match.target_index
            labels[frame, query] = target.labels[chosen]
            kernels, masks = output.kernels[frame, query], target.masks[chosen]
            parts.append(mask_losses(self.sampler, kernels, pixel[frame], masks, count))
        sums = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        return {"loss_ce": self.class_loss(output.logits, labels), **sums}

    @full_precision
    def class_loss(
        self, logits: Tensor, labels: Tensor, count: float | Tensor | None = None
    ) -> Tensor:
        """Cross entropy in which "no object" weighs less than classes.

        Args:
            logits: (..., Q, num_classes + 1).
            labels: (..., Q) int64; -1 is "no object".
            count: divisor of the weighted sum; None: the sum of the weights, so a mean.
        """
        no_object = logits.shape[-1] - 1
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.no_object_weight
        target = labels.masked_fill(labels < 0, no_object).flatten()
        logits = logits.flatten(0, -2)
        if count is None:
            return F.cross_entropy(logits, target, weight)
        return F.cross_entropy(logits, target, weight, reduction="sum") / count

    def embedding_class_loss(self, logits: Tensor, labels: Tensor, count: float | Tensor) -> Tensor:
        """See ``PointCriterion``."""
        return self.class_loss(logits, labels, count)
