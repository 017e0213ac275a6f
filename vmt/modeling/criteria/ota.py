"""Several queries per object: SimOTA, and the pairs of frames that a contrastive loss learns from.

Source: YOLOX, arXiv:2107.08430, section 2.1 (SimOTA), as IDOL, arXiv:2207.10661, section 3.2, uses
it, with its code's costs. Letters: Q queries and G objects of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.criteria.matcher import focal_cost
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou

#: Half a side of the square around an object's centre, in [0, 1] of the image.
CENTRE_RADIUS = 2.5 / 32
#: Added to a pair where the query's centre is not both in the box and in the square.
OUTSIDE_COST = 100.0
#: Added to a query whose centre is in no box and in no square.
NOWHERE_COST = 10000.0
#: Added to queries that have an object, while another object has none.
TAKEN_COST = 100000.0


class OtaMatch(NamedTuple):
    """N pairs of a query and an object; a query has at most one, an object at least one.

    Attributes:
        query_index: (N,) int64, ascending.
        target_index: (N,) int64, the object of each query.
        best: (G,) int64, the cheapest query of each object.
    """

    query_index: Tensor
    target_index: Tensor
    best: Tensor


class ReferencePairs(NamedTuple):
    """Queries of a reference frame as the anchors of the objects see them.

    Attributes:
        positive: (G, Q) bool, queries that are the object.
        exclusion: (G, Q) bool, queries too close to it to be negatives; all others are negatives.
    """

    positive: Tensor
    exclusion: Tensor


@dataclass(frozen=True)
class SimOta:
    """Assigns to each object its cheapest queries, as many as its overlaps add up to.

    Args:
        class_cost: weight of the focal class cost.
        giou_cost: weight of minus the generalised IoU.
        candidates: largest IoUs of an object that add up to its number of queries.
        exclusion_candidates: the same for queries that are no negatives of the object.
    """

    class_cost: float = 1.0
    giou_cost: float = 3.0
    candidates: int = 10
    exclusion_candidates: int = 100

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, labels: Tensor, boxes_gt: Tensor) -> OtaMatch:
        """Match the queries of one image.

        Args:
            logits: (Q, num_classes).
            boxes: (Q, 4) cxcywh in [0, 1].
            labels: (G,) int64, G may be 0.
            boxes_gt: (G, 4) cxcywh in [0, 1].

        Returns:
            The pairs.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
        """
        cost, iou = self.costs(logits, boxes, labels, boxes_gt)
        cost, taken = assigned(cost, iou, self.candidates)
        query, target = taken.nonzero(as_tuple=True)
        if not len(labels):
            return OtaMatch(query, target, query)
        best = torch.where(taken, cost, torch.inf).argmin(0)
        return OtaMatch(query, target, best)

    @torch.no_grad()
    def reference_pairs(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, boxes_gt: Tensor
    ) -> ReferencePairs:
        """Positives and what is too close to be a negative; arguments as in ``__call__``.

        As published the second assignment sees the costs as the first one left them.
        """
        return self.pairs_of(*self.costs(logits, boxes, labels, boxes_gt))

    def pairs_of(self, cost: Tensor, iou: Tensor) -> ReferencePairs:
        """The same from costs and IoUs (Q, G) of any kind."""
        cost, positive = assigned(cost, iou, self.candidates)
        _, exclusion = assigned(cost, iou, self.exclusion_candidates)
        return ReferencePairs(positive.t(), exclusion.t())

    def costs(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, boxes_gt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cost and IoU of every pair, (Q, G) each; arguments as in ``__call__``.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
        """
        with torch.autocast(logits.device.type, enabled=False):
            corners, corners_gt = cxcywh_to_xyxy(boxes.float()), cxcywh_to_xyxy(boxes_gt.float())
            square = torch.cat(
                [boxes_gt[:, :2] - CENTRE_RADIUS, boxes_gt[:, :2] + CENTRE_RADIUS], 1
            )
            in_box, in_square = (_inside(boxes[:, :2], area) for area in (corners_gt, square))
            nowhere = ~(in_box | in_square).any(1, keepdim=True)
            cost = (
                self.class_cost * focal_cost(logits.float()[:, labels])
                - self.giou_cost * pairwise_giou(corners, corners_gt)
                + OUTSIDE_COST * ~(in_box & in_square)
                + NOWHERE_COST * nowhere
            )
        if not bool(torch.isfinite(cost).all()):
            raise NonFiniteError(
                "costs of assigning queries to objects hold NaN or infinity, so logits or boxes "
                "do; the step before this one has most likely diverged."
            )
        return cost, pairwise_iou(corners, corners_gt)


def _inside(points: Tensor, areas_xyxy: Tensor) -> Tensor:
    """(Q, 2) points and (G, 4) areas -> (Q, G) bool."""
    x, y = points[:, None].unbind(-1)
    x1, y1, x2, y2 = areas_xyxy[None].unbind(-1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def assigned(cost: Tensor, iou: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Dynamic k: the sum of an object's largest IoUs says how many queries it takes.

    Args:
        cost: (Q, G).
        iou: (Q, G).
        candidates: IoUs that are added up, at most Q count.

    Returns:
        (Q, G) costs, raised for queries that had an object while another had none; and (Q, G)
        bool, which query is assigned to which object.
    """
    if not cost.numel():
        return cost, torch.zeros_like(cost, dtype=torch.bool)
    counts = iou.topk(min(candidates, len(iou)), dim=0).values.sum(0).int().clamp(1, len(iou))
    rank = cost.argsort(dim=0, stable=True).argsort(dim=0)  # of each query for each object
    taken = _one_object_each(rank < counts, cost)
    while bool((empty := ~taken.any(0)).any()) and len(cost) >= cost.shape[1]:
        if bool(taken.any(1).all()):  # nothing is left: the published loop would not end
            return cost, _shared(taken, cost)
        cost = cost + TAKEN_COST * taken.any(1, keepdim=True)
        taken = taken.clone()
        columns = empty.nonzero()[:, 0]
        taken[cost[:, columns].argmin(0), columns] = True
        taken = _one_object_each(taken, cost)
    return cost, taken


def _shared(taken: Tensor, cost: Tensor) -> Tensor:
    """Each object without a query gets the cheapest one of those whose object has several."""
    taken = taken.clone()
    for column in (~taken.any(0)).nonzero()[:, 0].tolist():
        spare = (taken & (taken.sum(0) > 1)).any(1)
        row = cost[:, column].masked_fill(~spare, torch.inf).argmin()
        taken[row] = False
        taken[row, column] = True
    return taken


def _one_object_each(taken: Tensor, cost: Tensor) -> Tensor:
    """Queries with several objects keep the cheapest of all."""
    several = taken.sum(1, keepdim=True) > 1
    cheapest = torch.zeros_like(taken).scatter_(1, cost.argmin(1, keepdim=True), True)
    return torch.where(several, cheapest, taken)
