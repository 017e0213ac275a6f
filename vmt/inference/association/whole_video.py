"""A video that is one single window, by the rules of the release.

See docs/reference/released_code.md#selection.
"""

from __future__ import annotations

import torch

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.structures.predictions import ClipTracklets


class WholeVideoAssociation:
    """Every chosen query is a track; the best (query, class) pairs of the video choose.

    Args:
        top_k: (query, class) pairs that are kept, the best of all.
    """

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._frames: list[FrameLogits] = []
        self._tracks: list[TrackSummary] = []

    def add(self, start: int, output: ClipTracklets) -> None:
        """Take in the whole video, once."""
        assert start == 0, "a whole video is one window"
        count, num_classes = output.class_probs.shape
        flat = output.class_probs.float().cpu().flatten()
        order = torch.argsort(flat, descending=True, stable=True)[: self._top_k].tolist()
        classes: dict[int, list[ClassScore]] = {}  # of each query
        for index in order:
            pair = ClassScore(index % num_classes, float(flat[index]))
            classes.setdefault(index // num_classes, []).append(pair)
        rows = sorted(classes)
        ids = tuple(range(1, len(rows) + 1))
        labels = tuple(classes[row][0].label for row in rows)
        scores = tuple(classes[row][0].score for row in rows)
        tubes = output.mask_logits if len(rows) == count else output.mask_logits[rows]
        self._frames = [
            FrameLogits(t, ids, labels, scores, logits, output.mask_stride, output.input_size)
            for t, logits in enumerate(tubes.unbind(1))
        ]
        self._tracks = [
            TrackSummary(i, tuple(classes[row])) for i, row in zip(ids, rows, strict=True)
        ]

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """All frames; their logits are views of those that came in."""
        assert until >= len(self._frames), "no window comes after a whole video"
        frames, self._frames = self._frames, []
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """All tracks, in the order of the queries."""
        tracks, self._tracks = self._tracks, []
        return tracks
