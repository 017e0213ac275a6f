"""Which regions of a frame embeddings learn from: quasi-dense, balanced over objects and overlaps.

Source: QDTrack, arXiv:2006.06664, section 3.2; its code for what the balance is. Letters: P
proposals and G objects of a frame, R regions that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.structures.boxes import pairwise_iou
from vmt.utils.errors import ConfigError

#: Bins of overlap from which equally many negatives are drawn.
IOU_BINS = 3
#: Negatives per positive at most.
MOST_NEGATIVES = 3


@dataclass(frozen=True)
class RegionOptions:
    """Which proposals are positives and negatives, and how many are drawn.

    Args:
        key: most positives of the key frame.
        reference: regions of a reference frame, half of them positives where there are enough.
        positive_iou: proposals that overlap an object by at least so much are positives.
        negative_iou: those that overlap all objects by less are negatives.

    Raises:
        ConfigError: counts or thresholds with which nothing could be drawn.
    """

    key: int = 128
    reference: int = 256
    positive_iou: float = 0.7
    negative_iou: float = 0.3

    def __post_init__(self) -> None:
        if self.key < 1 or self.reference < 2:
            raise ConfigError(
                f"MODEL.MOTS.KEY_REGIONS is {self.key} and REFERENCE_REGIONS {self.reference}; "
                "give at least 1 and 2."
            )
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ConfigError(
                f"MODEL.MOTS.NEGATIVE_IOU is {self.negative_iou} and POSITIVE_IOU "
                f"{self.positive_iou}; give 0 < NEGATIVE_IOU <= POSITIVE_IOU <= 1."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RegionOptions:
        """Read ``MODEL.MOTS``."""
        node = cfg.MODEL.MOTS
        return cls(node.KEY_REGIONS, node.REFERENCE_REGIONS, node.POSITIVE_IOU, node.NEGATIVE_IOU)


@dataclass(frozen=True)
class Regions:
    """R regions of a frame.

    Args:
        boxes_px: (R, 4) xyxy.
        track: (R,) int64, the clip's tracklet that a region shows; -1: a negative.
    """

    boxes_px: Tensor
    track: Tensor

    def positives(self) -> Regions:
        """Those that show a tracklet."""
        seen = self.track >= 0
        return Regions(self.boxes_px[seen], self.track[seen])


def draw_regions(
    proposals: Tensor, boxes_px: Tensor, track: Tensor, count: int, options: RegionOptions
) -> Regions:
    """Draw positives, at most half of ``count``, and negatives, as many as are missing.

    The objects' own boxes are proposals too.

    Args:
        proposals: (P, 4) xyxy in pixels.
        boxes_px: (G, 4) xyxy of the objects; G may be 0.
        track: (G,) int64, the clip's tracklet that each one is.
        count: R, at most.
        options: thresholds.
    """
    proposals = torch.cat([boxes_px, proposals])
    overlap = proposals.new_zeros(len(proposals))
    owner = overlap.long()
    if len(boxes_px):
        overlap, owner = pairwise_iou(proposals, boxes_px).max(1)
    positive = (overlap >= options.positive_iou).nonzero()[:, 0]
    positive = balanced(positive, owner[positive], len(boxes_px), count // 2)
    limit = min(count - len(positive), MOST_NEGATIVES * max(len(positive), 1))
    negative = (overlap < options.negative_iou).nonzero()[:, 0]
    bins = (overlap[negative] / options.negative_iou * IOU_BINS).long()
    negative = balanced(negative, bins, IOU_BINS, limit)
    tracks = track[owner[positive]]
    background = torch.full_like(negative, -1)
    return Regions(proposals[torch.cat([positive, negative])], torch.cat([tracks, background]))


def balanced(index: Tensor, group: Tensor, groups: int, count: int) -> Tensor:
    """Draw at most ``count`` at random, of each group equally many where it has so many.

    Args:
        index: (N,) int64.
        group: (N,) int64, the group of each, below ``groups``.
        groups: how many there are.
        count: how many to draw.
    """
    if len(index) <= count:
        return index
    order = torch.randperm(len(index), device=index.device)
    index, group = index[order], group[order]
    # The first of every group, then the second of every group, and so on.
    turn = torch.empty_like(group)
    for number in range(groups):
        members = group == number
        turn[members] = torch.arange(int(members.sum()), device=group.device)
    return index[turn.argsort(stable=True)[:count]]
