"""Tracklets of windows joined to tracks of the video, in constant memory.

docs/reference/released_code.md#windows has the published rule.
Held at any time: mask logits of the windows that reach into frames not yet handed out, and per
track one embedding and one running mean of class probabilities. Tracks that no later window can
meet are handed out with their final scores and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vmt.inference.association.base import ClassScore, FrameLogits, TrackSummary
from vmt.structures.predictions import ClipTracklets


@dataclass
class _Track:
    """Running state of a track; nothing in it grows with the frames."""

    probs_sum: Tensor  # (num_classes,) on the CPU
    windows: int
    embedding: Tensor  # (C,) of the latest window, on the CPU
    last_end: int  # index behind its latest window

    @property
    def probs(self) -> Tensor:
        return self.probs_sum / self.windows


@dataclass
class _Seen:
    """What one window said about the frames from ``start`` on."""

    start: int
    track_ids: list[int]
    logits: Tensor  # (N, T, h, w)

    @property
    def end(self) -> int:
        return self.start + int(self.logits.shape[1])


class WindowAssociation:
    """Joins the tracklets of successive windows.

    Two windows agree on a track when the soft IoU of their masks on the frames they share, summed
    over these frames and averaged over the earlier windows that hold the track, is high; the
    Hungarian method picks the pairs. A tracklet without partner starts a track.

    Args:
        threshold: pairs of a lower affinity are not joined.
        similarity_weight: times the cosine of the two instance queries (its positive part), added
            to the soft IoU. 0 is the published rule; windows that share no frame need more.
        min_score: (track, class) pairs of a lower probability are left out of summaries.
    """

    def __init__(
        self, *, threshold: float = 0.01, similarity_weight: float = 0.0, min_score: float = 0.05
    ) -> None:
        self._threshold = threshold
        self._similarity_weight = similarity_weight
        self._min_score = min_score
        self._tracks: dict[int, _Track] = {}
        self._seen: list[_Seen] = []
        self._next_id = 1
        self._next_frame = 0
        self._reach = 0  # index behind the latest window
        self._scale = (1, (1, 1))  # of the masks: the same in all windows of a video

    def add(self, start: int, output: ClipTracklets) -> None:
        """Match the tracklets of a window with the tracks so far."""
        ids = self._match(start, output)
        end = start + output.num_frames
        probs = output.class_probs.float().cpu()
        embeddings = F.normalize(output.embeddings.float(), dim=1).cpu()
        for track_id, prob, embedding in zip(ids, probs, embeddings, strict=True):
            track = self._tracks.get(track_id)
            if track is None:
                self._tracks[track_id] = _Track(prob.clone(), 1, embedding.clone(), end)
            else:
                track.probs_sum += prob
                track.windows += 1
                track.embedding = embedding.clone()
                track.last_end = end
        self._seen.append(_Seen(start, ids, output.mask_logits))
        self._reach = max(self._reach, end)
        self._scale = (output.mask_stride, output.input_size)

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """Frames before ``until``; logits are means over the windows that saw the track."""
        frames = [self._frame(index) for index in range(self._next_frame, until)]
        self._next_frame = max(self._next_frame, until)
        self._forget_masks()
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """Tracks that end; their classes are those above ``min_score``."""
        # A later window joins by the frames it shares, which are not handed out yet; without
        # shared frames, by the queries of the latest window.
        oldest = min(self._next_frame, self._reach - 1)
        closed = [i for i, t in self._tracks.items() if everything or t.last_end <= oldest]
        return [self._summary(i, self._tracks.pop(i)) for i in sorted(closed)]

    def _summary(self, track_id: int, track: _Track) -> TrackSummary:
        probs = track.probs
        order = torch.argsort(probs, descending=True, stable=True).tolist()
        scores = [ClassScore(k, float(probs[k])) for k in order]
        return TrackSummary(track_id, tuple(s for s in scores if s.score > self._min_score))

    def _frame(self, index: int) -> FrameLogits:
        masks: dict[int, list[Tensor]] = {}  # of each track, one per window
        for seen in self._seen:
            if seen.start <= index < seen.end:
                for track_id, tube in zip(seen.track_ids, seen.logits, strict=True):
                    masks.setdefault(track_id, []).append(tube[index - seen.start])
        ids = tuple(sorted(masks))
        best = [self._tracks[i].probs.max(dim=0) for i in ids]
        logits = [torch.stack(masks[i]).float().mean(dim=0) for i in ids]
        return FrameLogits(
            index,
            ids,
            tuple(int(b.indices) for b in best),
            tuple(float(b.values) for b in best),
            torch.stack(logits) if logits else torch.zeros(0, 1, 1),
            *self._scale,
        )

    def _forget_masks(self) -> None:
        still: list[_Seen] = []
        for seen in self._seen:
            if seen.end > self._next_frame:
                done = max(self._next_frame - seen.start, 0)
                # A copy: a slice would keep the whole window alive.
                logits = seen.logits[:, done:].clone() if done else seen.logits
                still.append(_Seen(seen.start + done, seen.track_ids, logits))
        self._seen = still

    def _match(self, start: int, tracklets: ClipTracklets) -> list[int]:
        """Track ids of the N tracklets, new ones for those without partner."""
        candidates = sorted(self._tracks)
        ids: list[int | None] = [None] * len(tracklets)
        if candidates and len(tracklets):
            affinity = self._affinity(start, tracklets, candidates)  # (tracks, N)
            rows, columns = linear_sum_assignment(affinity, maximize=True)
            for row, column in zip(rows, columns, strict=True):
                if affinity[row, column] > self._threshold:
                    ids[column] = candidates[row]
        result = []
        for track_id in ids:
            if track_id is None:
                track_id, self._next_id = self._next_id, self._next_id + 1
            result.append(track_id)
        return result

    def _affinity(
        self, start: int, tracklets: ClipTracklets, candidates: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        place = {track_id: row for row, track_id in enumerate(candidates)}
        total = np.zeros((len(candidates), len(tracklets)))
        count = np.zeros((len(candidates), 1))
        for seen in self._seen:
            first, last = max(start, seen.start), min(start + tracklets.num_frames, seen.end)
            if first >= last or not seen.track_ids:
                continue
            rows = [place[track_id] for track_id in seen.track_ids]
            total[rows] += soft_iou(
                seen.logits[:, first - seen.start : last - seen.start],
                tracklets.mask_logits[:, first - start : last - start],
            )
            count[rows] += 1
        affinity: npt.NDArray[np.float64] = total / np.maximum(count, 1)
        if self._similarity_weight:
            earlier = torch.stack([self._tracks[i].embedding for i in candidates])
            now = F.normalize(tracklets.embeddings.float(), dim=1).cpu()
            cosine = (earlier @ now.t()).clamp(min=0).double().numpy()
            affinity += self._similarity_weight * cosine
        return affinity


def soft_iou(first: Tensor, second: Tensor) -> npt.NDArray[np.float64]:
    """Soft IoU of every tube of one window with every tube of another.

    sum(p * q) / sum(p + q - p * q) over all pixels of all shared frames, p and q probabilities.

    Args:
        first: (N, T, h, w) mask logits.
        second: (M, T, h, w) mask logits.

    Returns:
        (N, M) in [0, 1].
    """
    p, q = (x.float().sigmoid().flatten(1) for x in (first, second))
    inter = p @ q.t()  # (N, M)
    union = p.sum(dim=1)[:, None] + q.sum(dim=1)[None] - inter
    return (inter / union.clamp(min=1e-6)).double().cpu().numpy()
