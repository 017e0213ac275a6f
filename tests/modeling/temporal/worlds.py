"""Frames of training clips without a network, and heads that are simple enough for loops."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.frame_training import TrainedFrame
from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_iou
from vmt.structures.frame_targets import FrameTargets

DIM, CLASSES, SIZE, QUERIES = 8, 3, (6, 5), 10
#: Class of each tracklet of the clip.
LABELS = (2, 0, 1)


def frame_of(shown: list[int], seed: int, spread: float = 0.02) -> TrainedFrame:
    """A frame that shows some of a clip's three tracklets.

    Its first queries lie ``spread`` around the objects, three around each, and know their classes;
    the others lie anywhere.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = len(shown)
    centres = torch.tensor([[0.2 + 0.3 * slot, 0.5, 0.2, 0.4] for slot in shown]).double()
    boxes = draw(QUERIES, 4).sigmoid() * 0.2
    logits = draw(QUERIES, CLASSES) - 2
    for row, slot in enumerate(shown):
        rows = slice(3 * row, 3 * row + 3)
        boxes[rows] = centres[row] + spread * draw(3, 4)
        logits[rows, LABELS[slot]] += 3
    target = FrameTargets(
        torch.tensor([LABELS[slot] for slot in shown], dtype=torch.int64),
        centres.view(-1, 4),
        draw(count, *SIZE) > 0,
        f"frame {seed}",
        torch.tensor(shown, dtype=torch.int64),
        len(LABELS),
    )
    assigned = torch.zeros(QUERIES, dtype=torch.bool)
    assigned[: 3 * count] = True
    return TrainedFrame(
        draw(QUERIES, DIM).requires_grad_(),
        logits,
        boxes,
        draw(DIM, *SIZE),
        None,
        torch.arange(count) * 3 + 1,
        assigned,
        target,
    )


def with_refs(frame: TrainedFrame) -> TrainedFrame:
    """The same frame of a network whose masks have reference points."""
    return replace(
        frame, refs=torch.arange(2.0 * QUERIES).view(-1, 2) + 1000 * frame.pixel[0, 0, 0]
    )


class Heads:
    """A frame model: squared errors, of classes and of dense masks."""

    denoising_kind = ""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.classes = nn.Linear(DIM, CLASSES).double()
        self.calls: list[int] = []

    def embedding_losses(
        self, embeds, refs, frame, labels, masks, with_mask, count
    ) -> dict[str, Tensor]:
        self.calls.append(len(embeds))
        wanted = F.one_hot(labels + 1, CLASSES + 1)[:, 1:]
        errors = (self.mask_head(embeds, frame.pixel, refs) - masks.double()).square()
        masked = errors[with_mask].sum() / count
        ce = (self.classes(embeds) - wanted).square().sum() / count
        return {"loss_ce": ce, "loss_mask": masked, "loss_dice": 2 * masked}

    def mask_head(self, embeds, pixel, refs) -> Tensor:
        return torch.einsum("nc,chw->nhw", embeds, pixel)

    def class_probs(self, frame) -> Tensor:
        return frame.logits.sigmoid()

    def overlaps(self, frame) -> Tensor:
        boxes = cxcywh_to_xyxy(frame.boxes)
        return pairwise_iou(boxes, cxcywh_to_xyxy(frame.target.boxes_cxcywh))


def associated(embeds: Tensor) -> Tensor:
    """What queries are compared by."""
    return embeds
