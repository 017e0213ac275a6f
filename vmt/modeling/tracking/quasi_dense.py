"""Tracks and backdrops that live on in a memory of embeddings, as QDTrack is published.

Source: QDTrack, arXiv:2006.06664, section 3.3, with the rules of its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.tracking.memory import bisoftmax
from vmt.structures.boxes import pairwise_iou
from vmt.utils.errors import ConfigError

#: Ids of detections that are in no track.
NO_TRACK, UNSURE, DUPLICATE = -1, -2, -3


@dataclass(frozen=True)
class QuasiDenseOptions:
    """How detections meet tracks; the values that QDTrack is published with for BDD100K.

    Args:
        init_score: detections without partner start a track above it, in [0, 1].
        object_score: above it a detection may join a track.
        match_score: similarity above which it does.
        memory_frames: a track without a match for so many frames is forgotten.
        backdrop_frames: frames whose backdrops are remembered.
        momentum: weight of the new embedding of a track.
        sure_score: a detection below ``object_score`` that resembles a track more than this is
            left out, neither track nor backdrop.
        backdrop_iou: a detection below ``object_score`` that overlaps a better one more is a
            duplicate; backdrops that overlap a better detection more are not remembered.
        duplicate_iou: the same of a detection from ``object_score`` on, whatever the classes.
        same_class: tracks and backdrops keep to their class.
        metric: "bisoftmax" or "cosine".
        detections: what joins no track comes out of the association too.

    Raises:
        ConfigError: a value that it cannot have.
    """

    init_score: float = 0.7
    object_score: float = 0.3
    match_score: float = 0.5
    memory_frames: int = 10
    backdrop_frames: int = 1
    momentum: float = 0.8
    sure_score: float = 0.5
    backdrop_iou: float = 0.3
    duplicate_iou: float = 0.7
    same_class: bool = True
    metric: str = "bisoftmax"
    detections: bool = False

    def __post_init__(self) -> None:
        where = "TEST.QUASI_DENSE"
        if self.metric not in METRICS:
            raise ConfigError(f"{where}.METRIC is {self.metric!r}; choose {' or '.join(METRICS)}.")
        if self.memory_frames < 1 or self.backdrop_frames < 0:
            raise ConfigError(
                f"{where}.MEMORY_FRAMES is {self.memory_frames} and BACKDROP_FRAMES "
                f"{self.backdrop_frames}; give at least 1 and 0."
            )
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"{where}.MOMENTUM is {self.momentum}; give a weight in [0, 1].")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> QuasiDenseOptions:
        """Read ``TEST.QUASI_DENSE``."""
        return cls(**{key.lower(): value for key, value in cfg.TEST.QUASI_DENSE.items()})


@dataclass(frozen=True)
class BoxDetections:
    """D detections of a frame, on the CPU, in any order.

    Args:
        boxes_xyxy: (D, 4) in any unit.
        scores: (D,) in [0, 1].
        labels: (D,) int64.
        embeddings: (D, C).
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, rows: Tensor) -> BoxDetections:
        """Some of them, in the given order."""
        fields = (self.boxes_xyxy, self.scores, self.labels, self.embeddings)
        return BoxDetections(*(field[rows] for field in fields))


@dataclass
class Entry:
    """What is known of a track.

    Args:
        embedding: (C,), blended over its matches.
        label: of the latest match.
        last_frame: of it.
    """

    embedding: Tensor
    label: int
    last_frame: int


@dataclass
class Backdrops:
    """What one frame left unmatched.

    Args:
        embeddings: (N, C).
        labels: (N,) int64.
    """

    embeddings: Tensor
    labels: Tensor


class QuasiDenseMemory:
    """The living tracks of a video; ids count from 0 and are never used again.

    Args:
        options: see ``QuasiDenseOptions``.
    """

    def __init__(self, options: QuasiDenseOptions) -> None:
        self._options = options
        self.entries: dict[int, Entry] = {}  # by id, ascending
        self._backdrops: list[Backdrops] = []  # the latest frame first
        self._next_id = 0

    def step(self, frame: int, detections: BoxDetections) -> Tensor:
        """Take in a frame.

        Args:
            frame: its index in the video, ascending.
            detections: D of them; of equal scores the earlier counts as the better.

        Returns:
            (D,) int64 ids; ``NO_TRACK``, ``UNSURE`` and ``DUPLICATE`` are below 0.
        """
        ids = torch.full((len(detections),), DUPLICATE)
        order = detections.scores.argsort(descending=True, stable=True)
        order = order[self._unique(detections.at(order))]
        ranked = detections.at(order)
        ids[order] = found = self._match(ranked)
        self._remember(frame, ranked, found)
        return ids

    def _unique(self, ranked: BoxDetections) -> Tensor:
        """(D,) bool, False for duplicates; also of what is a duplicate itself, as published."""
        options = self._options
        overlap = pairwise_iou(ranked.boxes_xyxy, ranked.boxes_xyxy).tril(-1)
        weak = (ranked.scores < options.object_score)[:, None]
        too_much = torch.where(
            weak, overlap > options.backdrop_iou, overlap > options.duplicate_iou
        )
        return ~too_much.any(1)

    def _match(self, ranked: BoxDetections) -> Tensor:
        """Ids of detections by descending score, without duplicates."""
        options = self._options
        ids = torch.full((len(ranked),), NO_TRACK)
        if len(ranked) and self.entries:
            affinity, memory_ids = self._affinity(ranked)
            # compared as tensors: 0.3 of a detection is not above 0.3, whatever it is in Python
            for row, is_object in enumerate((ranked.scores > options.object_score).tolist()):
                value, column = affinity[row].max(0)
                track = int(memory_ids[column])
                if value <= options.match_score or track == NO_TRACK:
                    continue
                if is_object:
                    ids[row] = track
                    affinity[row + 1 :, column] = 0.0
                elif value > options.sure_score:
                    ids[row] = UNSURE
        born = (ids == NO_TRACK) & (ranked.scores > options.init_score)
        ids[born] = torch.arange(self._next_id, self._next_id + int(born.sum()))
        self._next_id += int(born.sum())
        return ids

    def _affinity(self, ranked: BoxDetections) -> tuple[Tensor, Tensor]:
        """(D, M) similarity of detections and memory, and the M ids; backdrops have none."""
        entries = self.entries.values()
        embeddings = torch.cat(
            [torch.stack([entry.embedding for entry in entries])]
            + [backdrops.embeddings for backdrops in self._backdrops]
        )
        labels = torch.cat(
            [torch.tensor([entry.label for entry in entries])]
            + [backdrops.labels for backdrops in self._backdrops]
        )
        ids = torch.full_like(labels, NO_TRACK)
        ids[: len(self.entries)] = torch.tensor(list(self.entries))
        affinity = METRICS[self._options.metric](ranked.embeddings, embeddings)
        if self._options.same_class:
            affinity = affinity * (ranked.labels[:, None] == labels[None])
        return affinity, ids

    def _remember(self, frame: int, ranked: BoxDetections, ids: Tensor) -> None:
        options = self._options
        for row in (ids > NO_TRACK).nonzero()[:, 0].tolist():
            track, embedding = int(ids[row]), ranked.embeddings[row].clone()
            if track in self.entries:
                old = self.entries[track].embedding
                embedding = (1 - options.momentum) * old + options.momentum * embedding
            self.entries[track] = Entry(embedding, int(ranked.labels[row]), frame)
        overlap = pairwise_iou(ranked.boxes_xyxy, ranked.boxes_xyxy).tril(-1)
        apart = ~(overlap > options.backdrop_iou).any(1)
        rest = ranked.at((ids == NO_TRACK) & apart)
        latest = Backdrops(rest.embeddings.clone(), rest.labels)
        self._backdrops = [latest, *self._backdrops][: options.backdrop_frames]
        self.entries = {
            track: entry
            for track, entry in self.entries.items()
            if frame - entry.last_frame < options.memory_frames
        }

    def state(self) -> dict[str, Any]:
        """Everything, as numbers and tensors."""
        return {
            "next_id": self._next_id,
            "entries": {i: vars(entry).copy() for i, entry in self.entries.items()},
            "backdrops": [vars(backdrops).copy() for backdrops in self._backdrops],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._next_id = state["next_id"]
        self.entries = {i: Entry(**values) for i, values in state["entries"].items()}
        self._backdrops = [Backdrops(**values) for values in state["backdrops"]]


def cosine(detections: Tensor, memory: Tensor) -> Tensor:
    """(D, C) and (M, C) embeddings -> (D, M) in [-1, 1]."""
    return F.normalize(detections, dim=1) @ F.normalize(memory, dim=1).t()


#: ``QuasiDenseOptions.metric`` -> similarity of (D, C) and (M, C).
METRICS = {"bisoftmax": bisoftmax, "cosine": cosine}
