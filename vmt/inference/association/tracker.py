"""From the queries of a frame to the tracklets that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory
from vmt.modeling.tracking.selection import (
    Detections,
    SelectionOptions,
    greedy_nms,
    mask_overlap,
    select_by_box,
)
from vmt.modeling.video_model import FrameOutputs
from vmt.utils.device import index_on, to_host


@dataclass(frozen=True)
class Step:
    """The tracklets of a frame.

    Args:
        index: of the frame in the video.
        query: the query of each tracklet that was matched, by descending score.
        masks: (len(query), h, w) logits of these queries.
        alive: tracklets that a later frame may be matched with, those of ``query`` included.
    """

    index: int
    query: Mapping[int, int]
    masks: Tensor
    alive: frozenset[int]


class Tracker:
    """Selects the objects of each frame and joins them to the tracklets in a memory.

    Args:
        selection: which queries are detections.
        memory: which detections belong together.
    """

    def __init__(self, selection: SelectionOptions, memory: MemoryOptions) -> None:
        self._selection = selection
        self._memory = TrackMemory(memory)
        self.next_frame = 0

    def steps(self, frames: Sequence[FrameOutputs]) -> list[Step]:
        """Take in the next frames, ``on_host``; their masks are waited for once, together."""
        objects = [
            select_by_box(frame.class_probs(), frame.boxes_cxcywh, self._selection)
            for frame in frames
        ]
        masks = [frame.masks(found.query) for frame, found in zip(frames, objects, strict=True)]
        overlaps = to_host([mask_overlap(logits) for logits in masks])
        return [self._step(*four) for four in zip(frames, objects, masks, overlaps, strict=True)]

    def _step(
        self, frame: FrameOutputs, objects: Detections, masks: Tensor, overlap: Tensor
    ) -> Step:
        different = greedy_nms(overlap, self._selection.mask_iou)
        detections = objects.at(different)
        embeddings = frame.embeddings[detections.query]
        ids = self._memory.step(self.next_frame, detections.scores, embeddings)
        pairs = zip(ids, detections.query.tolist(), different, strict=True)
        matched = [(i, query, row) for i, query, row in pairs if i is not None]
        self.next_frame += 1
        return Step(
            self.next_frame - 1,
            {tracklet: query for tracklet, query, _ in matched},
            masks[index_on(masks.device, [row for _, _, row in matched])],
            frozenset(self._memory.entries),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as numbers and tensors."""
        return {"next_frame": self.next_frame, "memory": self._memory.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.next_frame = state["next_frame"]
        self._memory.load_state(state["memory"])
