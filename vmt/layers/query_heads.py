"""Class and box heads: one of each per decoder layer, none shared."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vmt.layers.mlp import MLP

#: Initial foreground probability of the focal loss (arXiv:1708.02002, section 4.1).
PRIOR = 0.01
#: Initial log-odds of width and height in the first layer (Deformable DETR's code): small boxes.
FIRST_SIZE_LOGIT = -2.0


class ClassHeads(nn.ModuleList):
    """Linear layers from instance queries to class logits; sigmoid scores, no background class.

    Args:
        num_layers: decoder layers.
        dim: channels of a query.
        num_classes: from the label space.
    """

    def __init__(self, num_layers: int, dim: int, num_classes: int) -> None:
        super().__init__(nn.Linear(dim, num_classes) for _ in range(num_layers))
        for head in self:
            assert isinstance(head, nn.Linear), "class heads are linear"
            nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))


class BoxHeads(nn.ModuleList):
    """MLPs from box queries to box deltas in log-odds.

    Args:
        num_layers: decoder layers.
        dim: channels of a query.
    """

    def __init__(self, num_layers: int, dim: int) -> None:
        super().__init__(MLP(dim, dim, 4, 3) for _ in range(num_layers))
        for index, head in enumerate(self):
            last = head.get_submodule("layers.2")
            assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if index == 0:
                nn.init.constant_(last.bias[2:], FIRST_SIZE_LOGIT)


def best_queries(logits: Tensor, top_k: int) -> Tensor:
    """Distinct queries among the ``top_k`` best (query, class) pairs.

    Args:
        logits: (Q, num_classes).
        top_k: at least 1.

    Returns:
        (N,) int64, ascending.
    """
    scores = logits.float().sigmoid().flatten()
    best = scores.topk(min(top_k, len(scores))).indices
    queries: Tensor = torch.div(best, logits.shape[1], rounding_mode="floor").unique()
    return queries
