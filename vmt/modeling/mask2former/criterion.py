"""Matching and losses of Mask2Former, for every output of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.losses import full_precision
from vmt.modeling.criteria.matcher import Match, match_costs
from vmt.modeling.criteria.point_masks import cross_entropy_cost, dice_cost, mask_losses
from vmt.modeling.criteria.point_sampling import PointSampler, at_points
from vmt.structures.frame_targets import FrameTargets


@dataclass(frozen=True)
class Predictions:
    """What the heads say of Q queries of B frames.

    Args:
        logits: (B, Q, num_classes + 1).
        kernels: (B, Q, mask_dim), whose dots with the pixel map are the masks.
    """

    logits: Tensor
    kernels: Tensor


@dataclass(frozen=True)
class Weights:
    """Of losses, and of the costs by which queries are matched.

    Args:
        ce: of the class loss; as a cost, of minus the probability of the class.
        mask: of the cross entropy at points.
        dice: of the dice loss at points.
    """

    ce: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass(frozen=True)
class CriterionResult:
    """What the criterion says of a step.

    Args:
        losses: unweighted scalars by name.
        matches: by suffix of the losses, one per frame.
    """

    losses: dict[str, Tensor]
    matches: dict[str, list[Match]]


class Mask2FormerCriterion:
    """Hungarian matching per frame and output, and the losses of its pairs.

    Source: Mask2Former, arXiv:2112.01527, sections 3.3 and 4.1, and its code.

    Args:
        weights: of losses and of the costs of matching.
        sampler: where masks are compared.
        no_object_weight: of queries without an object in the class loss.
        deep_supervision: whether outputs before the last layer are trained.
    """

    def __init__(
        self,
        weights: Weights | None = None,
        sampler: PointSampler | None = None,
        no_object_weight: float = 0.1,
        deep_supervision: bool = True,
    ) -> None:
        self.weights = weights or Weights()
        self.sampler = sampler or PointSampler()
        self.no_object_weight = no_object_weight
        self.deep_supervision = deep_supervision

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Mask2FormerCriterion:
        """Read ``MODEL.LOSS``; costs of the match have the weights of their losses."""
        loss = cfg.MODEL.LOSS
        masks = loss.MASK_WEIGHT, loss.DICE_WEIGHT
        return cls(
            Weights(loss.CLASS_WEIGHT, *masks),
            no_object_weight=cfg.MODEL.MASK2FORMER.NO_OBJECT_WEIGHT,
            deep_supervision=loss.DEEP_SUPERVISION,
        )

    def weight(self, name: str) -> float:
        """Weight of a loss, whatever its suffix."""
        value: float = getattr(self.weights, name.split("_")[1])
        return value

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses times their weights."""
        return {name: self.weight(name) * loss for name, loss in losses.items()}

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
        matches = dict(zip(outputs, matched, strict=True))
        losses: dict[str, Tensor] = {}
        for suffix, output in outputs.items():
            measured = self.losses(output, matches[suffix], targets, pixel, count)
            losses |= {name + suffix: value for name, value in measured.items()}
        return CriterionResult(losses, matches)

    @torch.no_grad()
    def match(
        self, outputs: Sequence[Predictions], targets: Sequence[FrameTargets], pixel: Tensor
    ) -> list[list[Match]]:
        """Match every output of every frame; the outputs of a frame share their points.

        Args:
            outputs: at several places of the network.
            targets: B frames.
            pixel: (B, mask_dim, h, w).

        Returns:
            Per output one match per frame.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
        """
        frames = []
        for frame, target in enumerate(targets):
            points = self.sampler.shared(pixel.device)
            features = at_points(pixel[frame : frame + 1].float(), points)[0]  # (mask_dim, P)
            truth = at_points(target.masks[None].float(), points)[0]  # (G, P)
            costs = [
                self.cost(
                    output.logits[frame],
                    output.kernels[frame].float() @ features,
                    target.labels,
                    truth,
                )
                for output in outputs
            ]
            frames.append(match_costs(torch.stack(costs), target.name))
        return [[matches[place] for matches in frames] for place in range(len(outputs))]

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
            -self.weights.ce * logits.softmax(-1)[:, labels]
            + self.weights.mask * cross_entropy_cost(mask_logits, truth)
            + self.weights.dice * dice_cost(mask_logits, truth)
        )

    def losses(
        self,
        output: Predictions,
        matches: Sequence[Match],
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
        for frame, ((query, chosen), target) in enumerate(zip(matches, targets, strict=True)):
            labels[frame, query] = target.labels[chosen]
            kernels, masks = output.kernels[frame, query], target.masks[chosen]
            parts.append(mask_losses(self.sampler, kernels, pixel[frame], masks, count))
        sums = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        return {"loss_ce": self.class_loss(output.logits, labels), **sums}

    @full_precision
    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy, a mean in which "no object" weighs less than classes.

        Args:
            logits: (B, Q, num_classes + 1).
            labels: (B, Q) int64; -1 is "no object".
        """
        no_object = logits.shape[-1] - 1
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.no_object_weight
        target = labels.where(labels >= 0, labels.new_tensor(no_object))
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight)
