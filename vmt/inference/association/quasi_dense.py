"""Tracks of detections by quasi-dense embeddings, as QDTrack is published for BDD100K.

Source: QDTrack, arXiv:2006.06664, section 3.3; ``vmt.modeling.tracking.quasi_dense`` has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.inference.association.on_host import on_host
from vmt.inference.association.registry import ASSOCIATIONS
from vmt.modeling.registry import register
from vmt.modeling.tracking.quasi_dense import (
    BoxDetections,
    QuasiDenseMemory,
    QuasiDenseOptions,
)
from vmt.modeling.video_model import FrameModel, FrameOutputs
from vmt.structures.boxes import cxcywh_to_xyxy, masks_to_boxes
from vmt.utils.device import index_on

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions


@dataclass
class _Track:
    """What the output knows of a track.

    Args:
        matches: its frames.
        scores: label -> sum of the scores of the frames with that label.
    """

    matches: int = 0
    scores: dict[int, float] = field(default_factory=dict)

    def add(self, label: int, score: float) -> None:
        self.matches += 1
        self.scores[label] = self.scores.get(label, 0.0) + score

    def classes(self) -> tuple[ClassScore, ...]:
        """Labels by descending mean score over all frames of the track."""
        pairs = [ClassScore(label, total / self.matches) for label, total in self.scores.items()]
        return tuple(sorted(pairs, key=lambda pair: -pair.score))


@register(ASSOCIATIONS, "quasi_dense")
class QuasiDenseAssociation:
    """Joins the detections of each frame to the tracks in a memory of embeddings.

    A track has in each frame the label and the score of its detection there, as BDD100K asks for
    results, and over the video the mean of its scores. Where tracks keep to their class, as
    published, it has one label.

    Args:
        options: see ``QuasiDenseOptions``.
    """

    clip = 0

    def __init__(self, options: QuasiDenseOptions | None = None) -> None:
        options = options if options is not None else QuasiDenseOptions()
        self._options = options
        self._memory = QuasiDenseMemory(options)
        self._next_frame = 0
        self._tracks: dict[int, _Track] = {}  # by id in the memory
        self._closed: list[TrackSummary] = []
        self._pending: list[FrameLogits] = []

    @classmethod
    def from_options(cls, options: PredictorOptions, model: FrameModel) -> QuasiDenseAssociation:
        """See ``registry``."""
        return cls(options.quasi_dense)

    def add(self, start: int, output: Sequence[FrameOutputs]) -> None:
        """See ``Association``; windows share no frame."""
        assert start == self._next_frame, "frames come one after the other"
        for frame in on_host(output):
            self._pending.append(self._associate(frame))
            self._next_frame += 1

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """See ``Association``."""
        frames = [frame for frame in self._pending if frame.index < until]
        self._pending = self._pending[len(frames) :]
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``."""
        if everything:
            self._close(list(self._tracks))
        closed, self._closed = self._closed, []
        return sorted(closed, key=lambda summary: summary.track_id)

    def _associate(self, frame: FrameOutputs) -> FrameLogits:
        detections = detections_of(frame)
        ids = self._memory.step(self._next_frame, detections)
        rows = (ids >= 0).nonzero()[:, 0]
        rows = rows[ids[rows].argsort()]
        record = self._record(frame, detections, rows, ids[rows] + 1)
        for number, label, score in zip(
            record.track_ids, record.labels, record.scores, strict=True
        ):
            self._tracks.setdefault(number - 1, _Track()).add(label, score)
        self._close([track for track in self._tracks if track not in self._memory.entries])
        if not self._options.detections:
            return record
        others = (ids < 0).nonzero()[:, 0]
        rest = self._record(frame, detections, others, torch.zeros_like(others))
        return replace(record, rest=rest)

    def _record(
        self, frame: FrameOutputs, detections: BoxDetections, rows: Tensor, numbers: Tensor
    ) -> FrameLogits:
        """Some detections under the ids that the output has."""
        found = detections.at(rows)
        return FrameLogits(
            self._next_frame,
            tuple(numbers.tolist()),
            tuple(found.labels.tolist()),
            tuple(found.scores.tolist()),
            frame.masks_to_draw(rows),
            frame.mask_stride,
            frame.input_size,
            frame.upsampling,
            None if frame.query is None else frame.query[index_on(frame.query.device, rows)],
        )

    def _close(self, tracks: Sequence[int]) -> None:
        for track in tracks:
            self._closed.append(TrackSummary(track + 1, self._tracks.pop(track).classes()))

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        return {
            "memory": self._memory.state(),
            "next_frame": self._next_frame,
            "tracks": {i: (track.matches, dict(track.scores)) for i, track in self._tracks.items()},
            "closed": [(s.track_id, [(c.label, c.score) for c in s.classes]) for s in self._closed],
            "pending": [frame.state() for frame in self._pending],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        self._memory.load_state(state["memory"])
        self._next_frame = state["next_frame"]
        self._tracks = {i: _Track(*values) for i, values in state["tracks"].items()}
        self._closed = [
            TrackSummary(i, tuple(starmap(ClassScore, pairs))) for i, pairs in state["closed"]
        ]
        self._pending = [FrameLogits.from_state(values) for values in state["pending"]]


def detections_of(frame: FrameOutputs) -> BoxDetections:
    """Boxes of a frame with their best class; of a network without boxes, those of its masks."""
    scores, labels = frame.class_probs().max(1)
    return BoxDetections(
        _boxes(frame).cpu(), scores.cpu(), labels.cpu(), frame.embeddings.float().cpu()
    )


def _boxes(frame: FrameOutputs) -> Tensor:
    if frame.boxes_cxcywh is None:
        return masks_to_boxes(frame.masks() > 0)
    return cxcywh_to_xyxy(frame.boxes_cxcywh.float())
