"""Tracklets that live on in a memory of embeddings, matched by bi-softmax.

IDOL, arXiv:2207.10661, section 3.3, with the rules of its code; the score is that of QDTrack,
arXiv:2006.06664, Eq. 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class MemoryOptions:
    """How detections meet tracklets; the values of IDOL for YouTube-VIS.

    Args:
        match_score: a detection joins a tracklet above it, in [0, 1].
        first_score: above it a detection starts a tracklet while the memory is empty.
        birth_score: the same of a detection without partner while it is not.
        length: embeddings that are kept per tracklet, at least 1.
        max_gap: a tracklet without a match for so many frames is forgotten; a match in the last
            of them still counts.
        frame_weight: a detection that could join several tracklets prefers those with more matches.
        optimal: pairs by the Hungarian method, not greedily by detection score.
    """

    match_score: float = 0.5
    first_score: float = 0.2
    birth_score: float = 0.2
    length: int = 3
    max_gap: int = 10
    frame_weight: bool = True
    optimal: bool = False


@dataclass
class Entry:
    """What is known of a tracklet.

    Args:
        embeddings: the latest ones (C,), oldest first.
        scores: of the detections that they come from.
        matches: frames in which it was matched, its first included.
        last_frame: the latest of them.
    """

    embeddings: list[Tensor]
    scores: list[float]
    matches: int
    last_frame: int

    def vector(self) -> Tensor:
        """(C,) mean of the embeddings; confident and recent ones weigh more."""
        n = len(self.scores)
        weights = torch.tensor([score + (j + 1) / n for j, score in enumerate(self.scores)])
        return (weights[:, None] * torch.stack(self.embeddings)).sum(0) / weights.sum()


class TrackMemory:
    """The living tracklets of a video; ids count from 0 and are never used again.

    Args:
        options: see ``MemoryOptions``.
    """

    def __init__(self, options: MemoryOptions) -> None:
        self._options = options
        self.entries: dict[int, Entry] = {}  # by id, ascending
        self._next_id = 0

    def step(self, frame: int, scores: Tensor, embeddings: Tensor) -> list[int | None]:
        """Take in a frame.

        Args:
            frame: its index in the video, ascending.
            scores: (D,) of its detections, descending, in [0, 1].
            embeddings: (D, C) of them, on the CPU.

        Returns:
            D ids; None for detections that join no tracklet and start none.
        """
        options = self._options
        birth = options.birth_score if self.entries else options.first_score
        ids: list[int | None] = [None] * len(scores)
        if self.entries:
            ids = self._match(embeddings)
        born = (scores > birth).tolist()
        for row, (score, embedding) in enumerate(zip(scores.tolist(), embeddings, strict=True)):
            if ids[row] is None and born[row]:
                ids[row], self._next_id = self._next_id, self._next_id + 1
                self.entries[self._next_id - 1] = Entry([], [], 0, frame)
            if (track := ids[row]) is not None:
                self._remember(self.entries[track], frame, score, embedding)
        self.entries = {
            track: entry
            for track, entry in self.entries.items()
            if frame - entry.last_frame < options.max_gap
        }
        return ids

    def _remember(self, entry: Entry, frame: int, score: float, embedding: Tensor) -> None:
        length = self._options.length
        entry.embeddings = [*entry.embeddings, embedding.clone()][-length:]
        entry.scores = [*entry.scores, score][-length:]
        entry.matches += 1
        entry.last_frame = frame

    def _match(self, embeddings: Tensor) -> list[int | None]:
        """Tracklet of each detection, at most one detection per tracklet."""
        tracks = list(self.entries)
        vectors = torch.stack([entry.vector() for entry in self.entries.values()])
        affinity = bisoftmax(embeddings, vectors)  # (D, M)
        matches = torch.tensor([float(entry.matches) for entry in self.entries.values()])
        pair = self._optimal_pairs if self._options.optimal else self._greedy_pairs
        return [None if column is None else tracks[column] for column in pair(affinity, matches)]

    def _weighted(self, affinity: Tensor, matches: Tensor) -> Tensor:
        """Rows with several acceptable tracklets times the tracklets' numbers of matches."""
        if not self._options.frame_weight:
            return affinity
        acceptable = affinity > self._options.match_score
        count = acceptable.sum(-1, keepdim=True)
        mean = (matches * acceptable).sum(-1, keepdim=True) / count
        weighted = affinity * torch.where(acceptable, matches, mean)
        return torch.where(count > 1, weighted, affinity)

    def _greedy_pairs(self, affinity: Tensor, matches: Tensor) -> list[int | None]:
        """Each detection in turn takes its best tracklet that is free."""
        columns: list[int | None] = []
        for row in range(len(affinity)):
            score, column = self._weighted(affinity[row], matches).max(0)
            matched = bool(score > self._options.match_score)
            columns.append(int(column) if matched else None)
            if matched:
                affinity[:, column] = 0.0
        return columns

    def _optimal_pairs(self, affinity: Tensor, matches: Tensor) -> list[int | None]:
        from scipy.optimize import linear_sum_assignment  # a second that others save

        affinity = self._weighted(affinity, matches)
        columns: list[int | None] = [None] * len(affinity)
        for row, column in zip(
            *linear_sum_assignment(affinity.numpy(), maximize=True), strict=True
        ):
            if affinity[row, column] > self._options.match_score:
                columns[row] = int(column)
        return columns

    def state(self) -> dict[str, Any]:
        """Everything, as numbers and tensors."""
        return {
            "next_id": self._next_id,
            "entries": {i: vars(e).copy() for i, e in self.entries.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._next_id = state["next_id"]
        self.entries = {i: Entry(**values) for i, values in state["entries"].items()}


def bisoftmax(detections: Tensor, tracklets: Tensor) -> Tensor:
    """How much detections and tracklets choose each other.

    Args:
        detections: (D, C) embeddings.
        tracklets: (M, C).

    Returns:
        (D, M) in [0, 1]: mean of the softmax over tracklets and that over detections.
    """
    dots = detections @ tracklets.t()
    return (dots.softmax(1) + dots.softmax(0)) / 2
