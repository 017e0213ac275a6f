"""Which query answers for which annotated tracklet: one Hungarian match per clip and layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vmt.modeling.criteria.finite import NonFiniteError
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_giou
from vmt.structures.clip import ClipTargets


class Match(NamedTuple):
    """N pairs; N = min(Q, G).

    Attributes:
        query_index: (N,) int64, ascending.
        target_index: (N,) int64, the tracklet that belongs to each query.
    """

    query_index: Tensor
    target_index: Tensor


def match_costs(costs: Tensor, name: str) -> list[Match]:
    """The pairs of least total cost at several places of a network, with one copy to the host.

    Args:
        costs: (places, Q, G).
        name: of what is matched, for the error.

    Returns:
        One match per place, on the device of the costs.

    Raises:
        NonFiniteError: a cost is NaN or infinite.
    """
    device, costs = costs.device, costs.detach().cpu()
    finite = torch.isfinite(costs).flatten(1).all(1)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"{name}: matching costs of decoder layer {place} hold NaN or infinity, so its logits, "
            "boxes or masks do; the step before this one has most likely diverged."
        )
    from scipy.optimize import linear_sum_assignment  # a second that inference saves

    pairs = [linear_sum_assignment(cost) for cost in costs.numpy()]
    return [
        Match(torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        for rows, columns in pairs
    ]


class HungarianClipMatcher:
    """Pairs of query and tracklet with the least total cost of class, boxes and overlap.

    A query is matched to a whole tube, so a cost sums up all frames of the clip; frames in which
    the tracklet is absent count with their box of about 1e-6. Masks take no part. Source:
    SeqFormer, arXiv:2112.08275, Eq. 6, with its code's costs.

    Args:
        class_cost: weight of the focal class cost.
        box_cost: weight of the Euclidean distance of all T*4 numbers of the boxes, which grows with
            the clip's length.
        giou_cost: weight of minus the mean generalised IoU.
        focal_alpha: weight of the positives.
        focal_gamma: focusing exponent.
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        if not (class_cost or box_cost or giou_cost):
            raise ValueError("class_cost, box_cost and giou_cost are all zero; give one a weight.")
        self.class_cost = class_cost
        self.box_cost = box_cost
        self.giou_cost = giou_cost
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def __call__(self, logits: Tensor, boxes: Tensor, targets: ClipTargets) -> Match:
        """Match the queries of one clip.

        Args:
            logits: (Q, num_classes).
            boxes: (T, Q, 4) cxcywh in [0, 1].
            targets: G tracklets, on the same device.

        Returns:
            min(Q, G) pairs.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
            ValueError: the clip's frames or labels do not fit the predictions.
        """
        return self.match_layers(logits[None], boxes[None], targets)[0]

    def match_layers(self, logits: Tensor, boxes: Tensor, targets: ClipTargets) -> list[Match]:
        """Match every decoder layer of one clip, with one copy to the host.

        Args:
            logits: (layers, Q, num_classes).
            boxes: (layers, T, Q, 4) cxcywh in [0, 1].
            targets: G tracklets, on the same device.

        Returns:
            One match per layer.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
            ValueError: the clip's frames or labels do not fit the predictions.
        """
        if boxes.shape[-3] != targets.num_frames:
            raise ValueError(
                f"{targets.name}: predictions have {boxes.shape[-3]} frames, "
                f"targets {targets.num_frames}."
            )
        return match_costs(self.cost(logits, boxes, targets), targets.name)

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: ClipTargets) -> Tensor:
        """Cost of every pair, fp32 at least.

        Args:
            logits: (..., Q, num_classes).
            boxes: (..., T, Q, 4) cxcywh in [0, 1].
            targets: G tracklets.

        Returns:
            (..., Q, G).
        """
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            boxes = boxes.to(dtype)
            boxes_gt = targets.boxes_cxcywh.to(dtype)  # (G, T, 4)
            return (
                self.class_cost * self._class_cost(logits.to(dtype), targets)
                + self.box_cost * _box_cost(boxes, boxes_gt)
                + self.giou_cost * _giou_cost(boxes, boxes_gt)
            )

    def _class_cost(self, logits: Tensor, targets: ClipTargets) -> Tensor:
        """(..., Q, classes) to (..., Q, G): focal loss as positive minus as negative."""
        num_classes = logits.shape[-1]
        if targets.labels.device.type == "cpu" and (targets.labels >= num_classes).any():
            raise ValueError(
                f"{targets.name}: labels {targets.labels.tolist()} exceed a head of "
                f"{num_classes} classes; MODEL.LABEL_SPACE and the data set disagree."
            )
        return focal_cost(logits[..., targets.labels], self.focal_alpha, self.focal_gamma)


def focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit as a positive minus that as a negative, same shape."""
    probs = logits.sigmoid()
    positive = alpha * (1 - probs) ** gamma * -(probs + 1e-8).log()
    negative = (1 - alpha) * probs**gamma * -(1 - probs + 1e-8).log()
    return positive - negative


def _box_cost(boxes: Tensor, boxes_gt: Tensor) -> Tensor:
    """(..., T, Q, 4) and (G, T, 4) to (..., Q, G)."""
    difference = boxes[..., :, :, None, :] - boxes_gt.transpose(0, 1)[:, None]  # (.., T, Q, G, 4)
    return difference.square().sum(-1).sum(-3).sqrt()


def _giou_cost(boxes: Tensor, boxes_gt: Tensor) -> Tensor:
    """(..., T, Q, 4) and (G, T, 4) to (..., Q, G)."""
    overlap = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(boxes_gt.transpose(0, 1)))
    return -(overlap.sum(-3) / boxes_gt.shape[1])
