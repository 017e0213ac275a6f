"""What the output knows of tracklets: numbers, class scores, and which of them are dropped.

The rules are those of IDOL's code; RefineVIS (arXiv:2306.04774) has the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.inference.association.tracker import Step
from vmt.modeling.video_model import FrameOutputs
from vmt.utils.device import index_on


@dataclass(frozen=True)
class TrackOptions:
    """How tracks are scored and when they are dropped.

    Args:
        min_score: (track, class) pairs of a lower probability are left out of summaries.
        best_score: a track's probabilities are the largest of its frames, not their mean.
        short_matches: a track with fewer matches that misses two frames in a row is dropped; 0:
            none is.
        short_from: index of the first frame in which one may be.
    """

    min_score: float = 0.05
    best_score: bool = False
    short_matches: int = 3
    short_from: int = 9


@dataclass
class _Track:
    """What the output knows of a tracklet.

    Args:
        number: its id in the output.
        probs: (num_classes,) sum or maximum over frames.
        frames: how many frames those are.
        matches: frames in which it was matched.
        last_frame: the latest of them.
    """

    number: int
    probs: Tensor
    frames: int
    matches: int
    last_frame: int


@dataclass
class _State:
    next_number: int = 1
    tracks: dict[int, _Track] = field(default_factory=dict)  # by tracklet of the memory
    closed: list[TrackSummary] = field(default_factory=list)


class Tracks:
    """The open tracks of a video.

    A short track that is dropped and matched again starts anew, under a new id.

    Args:
        options: see ``TrackOptions``.
    """

    def __init__(self, options: TrackOptions) -> None:
        self._options = options
        self._now = _State()

    def __contains__(self, tracklet: object) -> bool:
        return tracklet in self._now.tracks

    def update(self, step: Step, probs: Mapping[int, Tensor]) -> None:
        """Take in a frame.

        Args:
            step: what was matched in it.
            probs: (num_classes,) of every tracklet that the frame tells something about, on the
                CPU; of those that were matched in any case.
        """
        for tracklet, prob in probs.items():
            matched = tracklet in step.query
            track = self._now.tracks.get(tracklet)
            if track is not None:
                best = self._options.best_score
                track.probs = torch.maximum(track.probs, prob) if best else track.probs + prob
                track.frames += 1
            elif matched:
                track = _Track(self._now.next_number, prob.clone(), 1, 0, step.index)
                self._now.next_number += 1
                self._now.tracks[tracklet] = track
            if track is not None and matched:
                track.matches += 1
                track.last_frame = step.index
        self._end_tracks(step)

    def record(
        self,
        index: int,
        tracklets: Sequence[int],
        masks: Tensor,
        query: Tensor | None,
        frame: FrameOutputs,
    ) -> FrameLogits:
        """The tracks of a frame, by ascending number, with what is known of their classes.

        Args:
            index: of the frame.
            tracklets: N that the frame shows; each has an open track.
            masks: (N, h, w) logits.
            query: (N, C) from which they were cut, where the network gives them.
            frame: tells how the masks lie in it.
        """
        tracks = [self._now.tracks[tracklet] for tracklet in tracklets]
        rows = sorted(range(len(tracks)), key=lambda row: tracks[row].number)
        order = index_on(masks.device, rows)
        best = [self._scores(tracks[row]).max(0) for row in rows]
        return FrameLogits(
            index,
            tuple(tracks[row].number for row in rows),
            tuple(int(b.indices) for b in best),
            tuple(float(b.values) for b in best),
            masks[order],
            frame.mask_stride,
            frame.input_size,
            frame.upsampling,
            None if query is None else query[order],
        )

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``; dropped tracks come without a class."""
        state = self._now
        if everything:
            state.closed += [self._summary(track) for track in state.tracks.values()]
            state.tracks = {}
        closed, state.closed = state.closed, []
        return sorted(closed, key=lambda summary: summary.track_id)

    def _end_tracks(self, step: Step) -> None:
        """Close tracks whose tracklet is forgotten, and drop short ones."""
        state, options = self._now, self._options
        for tracklet, track in list(state.tracks.items()):
            missed_two = track.last_frame <= step.index - 2
            late = step.index >= options.short_from
            if late and missed_two and track.matches < options.short_matches:
                state.closed.append(TrackSummary(track.number, ()))
                del state.tracks[tracklet]
            elif tracklet not in step.alive:
                state.closed.append(self._summary(track))
                del state.tracks[tracklet]

    def _scores(self, track: _Track) -> Tensor:
        return track.probs if self._options.best_score else track.probs / track.frames

    def _summary(self, track: _Track) -> TrackSummary:
        probs = self._scores(track)
        order = torch.argsort(probs, descending=True, stable=True).tolist()
        scores = [ClassScore(k, float(probs[k])) for k in order]
        least = self._options.min_score
        return TrackSummary(track.number, tuple(s for s in scores if s.score > least))

    def state(self) -> dict[str, Any]:
        """Everything, as tensors, numbers and containers of them."""
        now = self._now
        return {
            "next_number": now.next_number,
            "tracks": {tracklet: vars(track).copy() for tracklet, track in now.tracks.items()},
            "closed": [(s.track_id, [(c.label, c.score) for c in s.classes]) for s in now.closed],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        tracks = {tracklet: _Track(**values) for tracklet, values in state["tracks"].items()}
        closed = [
            TrackSummary(i, tuple(starmap(ClassScore, pairs))) for i, pairs in state["closed"]
        ]
        self._now = _State(state["next_number"], tracks, closed)
