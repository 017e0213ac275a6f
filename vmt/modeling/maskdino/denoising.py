"""Denoising: annotated boxes and labels with noise, as queries that need no matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.criteria.matcher import Match
from vmt.structures.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from vmt.structures.frame_targets import FrameTargets
from vmt.utils.errors import ConfigError

#: "positive", as MaskDINO: objects moved a little. "contrastive", as DINO and RefineVIS: beside
#: each of these one that is moved too far, and is background.
KINDS = ("positive", "contrastive")
#: Share of labels that contrastive denoising draws anew: half of DINO's label ratio of 0.5.
CONTRASTIVE_LABEL_SHARE = 0.25


@dataclass(frozen=True)
class Noise:
    """How many denoising queries there are and how far they are off.

    Args:
        num_queries: per frame, over all groups, negatives not counted; 0: none.
        scale: "positive": largest shift of centres in half sides, and of sides in sides; half of
            it is the share of labels that are drawn anew. "contrastive": largest shift of a
            positive's corners in half sides; a negative's are moved by up to twice as much.
        kind: one of ``KINDS``.

    Raises:
        ConfigError: a value that makes no sense.
    """

    num_queries: int = 100
    scale: float = 0.4
    kind: str = "positive"

    def __post_init__(self) -> None:
        """Check."""
        if self.num_queries < 0:
            raise ConfigError(
                f"MODEL.MASKDINO.DN_QUERIES is {self.num_queries}; give 0 for none, or more."
            )
        if not 0 <= self.scale <= 2:
            raise ConfigError(f"MODEL.MASKDINO.DN_NOISE is {self.scale}; give a number in [0, 2].")
        if self.kind not in KINDS:
            raise ConfigError(
                f"MODEL.MASKDINO.DN_KIND is {self.kind!r}; give one of {', '.join(KINDS)}."
            )

    def groups(self, slots: int) -> int:
        """Groups for frames of at most ``slots`` objects; DINO has at least one."""
        if not slots or not self.num_queries:
            return 0
        return max(self.num_queries // slots, int(self.kind == "contrastive"))


@dataclass(frozen=True)
class NoisyQueries:
    """D denoising queries of each of B frames: groups of slots, slot i for object or tracklet i.

    Contrastive groups hold the positives of all slots, then their negatives.

    Args:
        content: (B, D, C); zero in the slots of objects that a frame lacks.
        anchor_logits: (B, D, 4) cxcywh in log-odds.
        groups: each with every object once.
        slots: the largest number of objects of a frame, or of tracklets of a clip.
        present: (B, D) bool, False in the slots of objects that a frame lacks: nobody reads them
            and no loss sees them. None, as published for MaskDINO: they are read, and background.
    """

    content: Tensor
    anchor_logits: Tensor
    groups: int
    slots: int
    present: Tensor | None = None

    def __len__(self) -> int:
        return self.content.shape[1]

    def of_frames(self, frames: slice) -> NoisyQueries:
        """The same of some frames."""
        present = None if self.present is None else self.present[frames]
        return replace(
            self,
            content=self.content[frames],
            anchor_logits=self.anchor_logits[frames],
            present=present,
        )

    def visible(self, num_queries: int) -> Tensor:
        """Who reads whom when these stand before ``num_queries`` others.

        The others read no denoising query, a denoising query reads the others and its own group.

        Returns:
            (D + Q, D + Q) bool, row reads column; or (B, 1, D + Q, D + Q) where frames differ.
        """
        device, count = self.content.device, len(self)
        group = torch.arange(count, device=device) // (count // self.groups)
        visible = torch.ones(count + num_queries, count + num_queries, device=device).bool()
        visible[:count, :count] = group[:, None] == group
        visible[count:, :count] = False
        if self.present is None:
            return visible
        readable = F.pad(self.present, (0, num_queries), value=True)
        return visible & readable[:, None, None]

    def pairs(self, target: FrameTargets) -> Match:
        """Positive denoising queries of a frame with the objects that they come from."""
        device = self.content.device
        objects = torch.arange(len(target), device=device)
        first = torch.arange(self.groups, device=device) * (len(self) // self.groups)
        slots = target.slots if self.present is not None else objects
        return Match((first[:, None] + slots).flatten(), objects.repeat(self.groups))


class Denoising(nn.Module):
    """Queries of annotated objects (DN-DETR, arXiv:2203.01305; DINO, arXiv:2203.03605).

    Args:
        dim: C.
        num_classes: from the label space.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.labels = nn.Embedding(num_classes, dim)

    def forward(self, targets: Sequence[FrameTargets], noise: Noise) -> NoisyQueries | None:
        """Make queries.

        Args:
            targets: B frames.
            noise: see ``Noise``.

        Returns:
            The queries; None when no frame has an object, or one has more than there are queries.
        """
        contrastive = noise.kind == "contrastive"
        slots = max(target.num_slots if contrastive else len(target) for target in targets)
        groups = noise.groups(slots)
        if not groups:
            return None
        weight, parts = self.labels.weight, 1 + contrastive
        content = weight.new_zeros(len(targets), groups, parts, slots, weight.shape[1])
        anchors = weight.new_zeros(len(targets), groups, parts, slots, 4)
        present = torch.zeros(anchors.shape[:-1], dtype=torch.bool, device=weight.device)
        for frame, target in enumerate(targets):
            labels = target.labels.expand(groups, parts, -1)
            boxes = target.boxes_cxcywh.to(weight).expand(groups, parts, -1, -1)
            if contrastive:
                labels = noisy_labels(labels, CONTRASTIVE_LABEL_SHARE, len(weight))
                boxes = contrastive_boxes(boxes, noise.scale)
            elif noise.scale:
                labels = noisy_labels(labels, noise.scale / 2, len(weight))
                boxes = noisy_boxes(boxes, noise.scale)
            places = target.slots if contrastive else slice(len(target))
            content[frame][:, :, places] = self.labels(labels)
            anchors[frame][:, :, places] = inverse_sigmoid(boxes)
            present[frame][:, :, places] = True
        return NoisyQueries(
            content.flatten(1, 3),
            anchors.flatten(1, 3),
            groups,
            slots,
            present.flatten(1) if contrastive else None,
        )


def noisy_labels(labels: Tensor, share: float, num_classes: int) -> Tensor:
    """Labels of which each is drawn anew with probability ``share``; any shape."""
    drawn = torch.randint_like(labels, num_classes)
    return torch.where(torch.rand(labels.shape, device=labels.device) < share, drawn, labels)


def noisy_boxes(boxes: Tensor, noise: float) -> Tensor:
    """Boxes (..., 4) cxcywh in [0, 1], moved and stretched uniformly, then clamped to [0, 1]."""
    sides = boxes[..., 2:]
    reach = torch.cat([sides / 2, sides], dim=-1) * noise
    return (boxes + (torch.rand_like(boxes) * 2 - 1) * reach).clamp(0, 1)


def contrastive_boxes(boxes: Tensor, noise: float) -> Tensor:
    """Boxes whose corner coordinates are moved, each by its own amount and direction.

    Args:
        boxes: (..., 2, G, 4) cxcywh in [0, 1]: positives, then negatives.
        noise: positives move by less than this many half sides, negatives by that or more, and
            less than twice that.

    Returns:
        The same shape, clamped to [0, 1].
    """
    half = boxes[..., 2:] / 2
    far = torch.arange(2, device=boxes.device)[:, None, None]
    amount = (torch.rand_like(boxes) + far) * noise
    sign = torch.randint_like(boxes, 2) * 2 - 1
    moved = cxcywh_to_xyxy(boxes) + sign * amount * torch.cat([half, half], dim=-1)
    return xyxy_to_cxcywh(moved.clamp(0, 1))
