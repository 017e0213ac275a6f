"""Denoising: annotated boxes and labels with noise, as queries that need no matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.modeling.criteria.matcher import Match
from vmt.structures.boxes import inverse_sigmoid
from vmt.structures.frame_targets import FrameTargets
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class Noise:
    """How many denoising queries there are and how far they are off.

    Args:
        num_queries: per frame, over all groups; 0: none.
        scale: largest shift of centres in half sides, and of sides in sides; half of it is the
            share of labels that are drawn anew.

    Raises:
        ConfigError: a value that makes no sense.
    """

    num_queries: int = 100
    scale: float = 0.4

    def __post_init__(self) -> None:
        """Check."""
        if self.num_queries < 0:
            raise ConfigError(
                f"MODEL.MASKDINO.DN_QUERIES is {self.num_queries}; give 0 for none, or more."
            )
        if not 0 <= self.scale <= 2:
            raise ConfigError(f"MODEL.MASKDINO.DN_NOISE is {self.scale}; give a number in [0, 2].")


@dataclass(frozen=True)
class NoisyQueries:
    """D denoising queries of each of B frames: ``groups`` times ``slots``, slot i for object i.

    Args:
        content: (B, D, C); zero in the slots of frames with fewer objects.
        anchor_logits: (B, D, 4) cxcywh in log-odds.
        groups: each with every object once.
        slots: the largest number of objects of a frame.
    """

    content: Tensor
    anchor_logits: Tensor
    groups: int
    slots: int

    def __len__(self) -> int:
        return self.groups * self.slots

    def visible(self, num_queries: int) -> Tensor:
        """Who reads whom when these stand before ``num_queries`` others.

        The others read no denoising query, a denoising query reads the others and its own group.

        Returns:
            (D + Q, D + Q) bool, row reads column.
        """
        device, count = self.content.device, len(self)
        group = torch.arange(count, device=device) // self.slots
        visible = torch.ones(count + num_queries, count + num_queries, device=device).bool()
        visible[:count, :count] = group[:, None] == group
        visible[count:, :count] = False
        return visible

    def pairs(self, num_objects: int) -> Match:
        """Denoising queries of a frame with the objects that they come from."""
        device = self.content.device
        target = torch.arange(num_objects, device=device)
        first = torch.arange(self.groups, device=device) * self.slots
        return Match((first[:, None] + target).flatten(), target.repeat(self.groups))


class Denoising(nn.Module):
    """Queries of annotated objects (DN-DETR, arXiv:2203.01305), without DINO's negatives.

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
        slots = max(map(len, targets))
        groups = noise.num_queries // slots if slots else 0
        if not groups:
            return None
        batch, dim = len(targets), self.labels.embedding_dim
        weight = self.labels.weight
        content = weight.new_zeros(batch, groups, slots, dim)
        anchors = weight.new_zeros(batch, groups, slots, 4)
        for frame, target in enumerate(targets):
            labels = target.labels.expand(groups, -1)
            boxes = target.boxes_cxcywh.to(weight).expand(groups, -1, -1)
            if noise.scale:
                labels = noisy_labels(labels, noise.scale / 2, self.labels.num_embeddings)
                boxes = noisy_boxes(boxes, noise.scale)
            content[frame, :, : len(target)] = self.labels(labels)
            anchors[frame, :, : len(target)] = inverse_sigmoid(boxes)
        return NoisyQueries(content.flatten(1, 2), anchors.flatten(1, 2), groups, slots)


def noisy_labels(labels: Tensor, share: float, num_classes: int) -> Tensor:
    """Labels of which each is drawn anew with probability ``share``; any shape."""
    drawn = torch.randint_like(labels, num_classes)
    return torch.where(torch.rand(labels.shape, device=labels.device) < share, drawn, labels)


def noisy_boxes(boxes: Tensor, noise: float) -> Tensor:
    """Boxes (..., 4) cxcywh in [0, 1], moved and stretched uniformly, then clamped to [0, 1]."""
    sides = boxes[..., 2:]
    reach = torch.cat([sides / 2, sides], dim=-1) * noise
    return (boxes + (torch.rand_like(boxes) * 2 - 1) * reach).clamp(0, 1)
