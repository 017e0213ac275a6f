"""Tracks of frames that are associated one by one, as IDOL is published.

Source: IDOL, arXiv:2207.10661, section 3.3, and its code for the rules of the output. RefineVIS
(arXiv:2306.04774) associates in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.inference.association.registry import ASSOCIATIONS
from vmt.modeling.registry import register
from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory
from vmt.modeling.tracking.selection import (
    Detections,
    SelectionOptions,
    select_by_box,
    without_same_masks,
)
from vmt.modeling.video_model import FrameModel, FrameOutputs
from vmt.utils.errors import ConfigError

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions


@dataclass(frozen=True)
class BisoftmaxOptions:
    """How detections of frames become tracks.

    Args:
        selection: which queries are detections.
        memory: which detections belong together.
        min_score: (track, class) pairs of a lower probability are left out of summaries.
        best_score: a track's probabilities are the largest of its frames, not their mean.
        short_matches: a track with fewer matches that misses two frames in a row is dropped; 0:
            none is.
        short_from: index of the first frame in which one may be.
    """

    selection: SelectionOptions = field(default_factory=SelectionOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    min_score: float = 0.05
    best_score: bool = False
    short_matches: int = 3
    short_from: int = 9

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BisoftmaxOptions:
        """Read ``TEST.BISOFTMAX``.

        Raises:
            ConfigError: a word that is none of its values.
        """
        node = cfg.TEST.BISOFTMAX
        for key, values in (("MATCHING", ("greedy", "hungarian")), ("SCORE", ("mean", "max"))):
            if node[key] not in values:
                raise ConfigError(
                    f"TEST.BISOFTMAX.{key} is {node[key]!r}; choose {' or '.join(values)}."
                )
        return cls(
            SelectionOptions(score=node.SELECT_SCORE, mask_iou=node.MASK_IOU),
            MemoryOptions(birth_score=node.BIRTH_SCORE, optimal=node.MATCHING == "hungarian"),
            best_score=node.SCORE == "max",
        )


@dataclass
class _Track:
    """What the output knows of a tracklet.

    Args:
        number: its id in the output.
        probs: (num_classes,) sum or maximum over its frames.
        matches: how many they are.
        last_frame: the latest of them.
    """

    number: int
    probs: Tensor
    matches: int
    last_frame: int


@dataclass
class _State:
    next_frame: int = 0
    next_number: int = 1
    tracks: dict[int, _Track] = field(default_factory=dict)  # by tracklet of the memory
    closed: list[TrackSummary] = field(default_factory=list)


@register(ASSOCIATIONS, "bisoftmax")
class BisoftmaxAssociation:
    """Joins the detections of each frame to the tracklets in a memory of embeddings.

    Every track's ids, scores and masks are fixed when its frame goes in, so frames come out in the
    same way whatever the windows. A short track that is dropped and matched again starts anew,
    under a new id.

    Args:
        options: see ``BisoftmaxOptions``.
    """

    def __init__(self, options: BisoftmaxOptions | None = None) -> None:
        self._options = options if options is not None else BisoftmaxOptions()
        self._memory = TrackMemory(self._options.memory)
        self._now = _State()
        self._pending: list[FrameLogits] = []

    @classmethod
    def from_options(cls, options: PredictorOptions, model: FrameModel) -> BisoftmaxAssociation:
        """See ``registry``."""
        return cls(options.bisoftmax)

    def add(self, start: int, output: Sequence[FrameOutputs]) -> None:
        """See ``Association``; windows share no frame."""
        assert start == self._now.next_frame, "frames come one after the other"
        for frame in output:
            self._pending.append(self._associate(frame))
            self._now.next_frame += 1

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """See ``Association``."""
        frames = [frame for frame in self._pending if frame.index < until]
        self._pending = self._pending[len(frames) :]
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``; dropped tracks come without a class."""
        state = self._now
        if everything:
            state.closed += [self._summary(track) for track in state.tracks.values()]
            state.tracks = {}
        closed, state.closed = state.closed, []
        return sorted(closed, key=lambda summary: summary.track_id)

    def _associate(self, frame: FrameOutputs) -> FrameLogits:
        detections = self.detections(frame)
        embeddings = frame.embeddings[detections.query].float().cpu()
        index = self._now.next_frame
        ids = self._memory.step(index, detections.scores, embeddings)
        probs = frame.class_probs()[detections.query].cpu()
        rows: list[tuple[_Track, int]] = []
        for row, (tracklet, prob) in enumerate(zip(ids, probs, strict=True)):
            if tracklet is not None:
                rows.append((self._matched(tracklet, prob), row))
        self._end_tracks()
        rows.sort(key=lambda pair: pair[0].number)
        best = [self._scores(track).max(0) for track, _ in rows]
        query = detections.query[[row for _, row in rows]]
        return FrameLogits(
            index,
            tuple(track.number for track, _ in rows),
            tuple(int(b.indices) for b in best),
            tuple(float(b.values) for b in best),
            frame.mask_logits[query],
            frame.mask_stride,
            frame.input_size,
            frame.upsampling,
            None if frame.query is None else frame.query[query],
        )

    def detections(self, frame: FrameOutputs) -> Detections:
        """The objects of a frame, by descending score."""
        options = self._options.selection
        detections = select_by_box(frame, options)
        masks = frame.mask_logits[detections.query]
        return detections.at(without_same_masks(masks, options))

    def _matched(self, tracklet: int, probs: Tensor) -> _Track:
        """The track of a tracklet that was matched in this frame."""
        state = self._now
        track = state.tracks.get(tracklet)
        if track is None:
            track = _Track(state.next_number, probs.clone(), 1, state.next_frame)
            state.next_number += 1
            state.tracks[tracklet] = track
            return track
        best = self._options.best_score
        track.probs = torch.maximum(track.probs, probs) if best else track.probs + probs
        track.matches += 1
        track.last_frame = state.next_frame
        return track

    def _end_tracks(self) -> None:
        """Close tracks whose tracklet is forgotten, and drop short ones."""
        state, options = self._now, self._options
        for tracklet, track in list(state.tracks.items()):
            missed_two = track.last_frame <= state.next_frame - 2
            late = state.next_frame >= options.short_from
            if late and missed_two and track.matches < options.short_matches:
                state.closed.append(TrackSummary(track.number, ()))
                del state.tracks[tracklet]
            elif tracklet not in self._memory.entries:
                state.closed.append(self._summary(track))
                del state.tracks[tracklet]

    def _scores(self, track: _Track) -> Tensor:
        return track.probs if self._options.best_score else track.probs / track.matches

    def _summary(self, track: _Track) -> TrackSummary:
        probs = self._scores(track)
        order = torch.argsort(probs, descending=True, stable=True).tolist()
        scores = [ClassScore(k, float(probs[k])) for k in order]
        least = self._options.min_score
        return TrackSummary(track.number, tuple(s for s in scores if s.score > least))

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        now = self._now
        return {
            "memory": self._memory.state(),
            "next": (now.next_frame, now.next_number),
            "tracks": {tracklet: vars(track).copy() for tracklet, track in now.tracks.items()},
            "closed": [(s.track_id, [(c.label, c.score) for c in s.classes]) for s in now.closed],
            "pending": [vars(frame).copy() for frame in self._pending],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        self._memory.load_state(state["memory"])
        next_frame, next_number = state["next"]
        tracks = {tracklet: _Track(**values) for tracklet, values in state["tracks"].items()}
        closed = [
            TrackSummary(i, tuple(starmap(ClassScore, pairs))) for i, pairs in state["closed"]
        ]
        self._now = _State(next_frame, next_number, tracks, closed)
        self._pending = [FrameLogits(**values) for values in state["pending"]]
