"""Which queries of a frame are objects: by score, then without duplicates of boxes and of masks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vmt.structures.boxes import cxcywh_to_xyxy, pairwise_iou


@dataclass(frozen=True)
class SelectionOptions:
    """Thresholds of a selection, as IDOL is published for YouTube-VIS.

    Args:
        score: queries with a class above it are objects; the best query is one in any case.
        box_iou: of two objects of one class that overlap more, the better stays.
        mask_iou: the same for masks, whatever the classes.
    """

    score: float = 0.1
    box_iou: float = 0.9
    mask_iou: float = 0.5


@dataclass(frozen=True)
class Detections:
    """D queries of a frame by descending score.

    Args:
        query: (D,) int64 indices.
        scores: (D,) of the best class, in [0, 1], on the CPU.
    """

    query: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def at(self, rows: list[int]) -> Detections:
        """Some of them, in the given order."""
        return Detections(self.query[rows], self.scores[rows])


def select_by_box(
    class_probs: Tensor, boxes_cxcywh: Tensor | None, options: SelectionOptions
) -> Detections:
    """Queries above the score, without those whose box repeats a better one of their class.

    Args:
        class_probs: (Q, num_classes) in [0, 1].
        boxes_cxcywh: (Q, 4) in [0, 1]; None without boxes.
        options: ``score`` and ``box_iou`` count.
    """
    best, labels = class_probs.max(1)
    best, labels = best.cpu(), labels.cpu()
    query = (best > options.score).nonzero()[:, 0]
    if not len(query) and len(best):
        query = best.argmax()[None]
    query = query[best[query].argsort(descending=True, stable=True)]
    detections = Detections(query, best[query])
    if boxes_cxcywh is None:
        return detections
    boxes = cxcywh_to_xyxy(boxes_cxcywh.float().cpu()[query])
    same = labels[query][:, None] == labels[query][None]
    return detections.at(greedy_nms(pairwise_iou(boxes, boxes) * same, options.box_iou))


def without_same_masks(mask_logits: Tensor, options: SelectionOptions) -> list[int]:
    """Rows of detections whose mask repeats none of a better one.

    Args:
        mask_logits: (D, h, w) of the detections, the best first.
        options: ``mask_iou`` counts.
    """
    return greedy_nms(mask_overlap(mask_logits).cpu(), options.mask_iou)


def mask_overlap(mask_logits: Tensor) -> Tensor:
    """(D, h, w) mask logits -> (D, D) IoU of every pair.

    As published, two empty masks overlap by 1, and sums in another order may move an IoU that is
    a threshold exactly to its other side.
    """
    masks = (mask_logits > 0).flatten(1).float()
    inter = masks @ masks.t()
    area = masks.sum(1)
    union = area[:, None] + area[None] - inter
    overlap: Tensor = (inter + 1e-6) / (union + 1e-6)
    return overlap


def greedy_nms(overlap: Tensor, threshold: float) -> list[int]:
    """Non-maximum suppression.

    Args:
        overlap: (D, D) of every pair, the best first.
        threshold: a row that overlaps an earlier one that stays by more than this goes.

    Returns:
        The rows that stay, ascending.
    """
    too_much = (overlap > threshold).tolist()
    rows: list[int] = []
    for row in range(len(too_much)):
        if not any(too_much[earlier][row] for earlier in rows):
            rows.append(row)
    return rows
