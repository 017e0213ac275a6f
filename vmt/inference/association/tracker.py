"""From the queries of a frame to the tracklets that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory
from vmt.modeling.tracking.selection import (
    SelectionOptions,
    select_by_box,
    without_same_masks,
)
from vmt.modeling.video_model import FrameOutputs


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

    def step(self, frame: FrameOutputs) -> Step:
        """Take in the next frame."""
        detections = select_by_box(frame.class_probs(), frame.boxes_cxcywh, self._selection)
        masks = frame.masks(detections.query)
        different = without_same_masks(masks, self._selection)
        detections = detections.at(different)
        embeddings = frame.embeddings[detections.query].float().cpu()
        ids = self._memory.step(self.next_frame, detections.scores, embeddings)
        pairs = zip(ids, detections.query.tolist(), different, strict=True)
        matched = [(i, query, row) for i, query, row in pairs if i is not None]
        self.next_frame += 1
        return Step(
            self.next_frame - 1,
            {tracklet: query for tracklet, query, _ in matched},
            masks[[row for _, _, row in matched]],
            frozenset(self._memory.entries),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as numbers and tensors."""
        return {"next_frame": self.next_frame, "memory": self._memory.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.next_frame = state["next_frame"]
        self._memory.load_state(state["memory"])
