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

from vmt.structures.predictions import ClipTracklets


@dataclass(frozen=True)
class ClassScore:
    """A label of a track and its probability in [0, 1]."""

    label: int
    score: float


@dataclass(frozen=True)
class TrackSummary:
    """What is known of a track once no later frame can hold it.

    Args:
        track_id: from 1, in order of appearance.
        classes: the labels that are kept, best first; may be empty.
    """

    track_id: int
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class FrameLogits:
    """The tracks of one frame, before the masks are brought to the size of the video.

    Args:
        index: of the frame in the video.
        track_ids: N ids, ascending.
        labels: N best labels so far.
        scores: N probabilities of these labels so far, in [0, 1].
        logits: (N, h, w) mask logits, averaged over the windows that saw the track in the frame.
    """

    index: int
    track_ids: tuple[int, ...]
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    logits: Tensor


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


class WindowLinker:
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

    def add(self, start: int, tracklets: ClipTracklets) -> None:
        """Take in a window.

        Args:
            start: index of its first frame; windows come in ascending order.
            tracklets: what the network saw in it.
        """
        ids = self._match(start, tracklets)
        end = start + tracklets.num_frames
        probs = tracklets.class_probs.float().cpu()
        embeddings = F.normalize(tracklets.embeddings.float(), dim=1).cpu()
        for track_id, prob, embedding in zip(ids, probs, embeddings, strict=True):
            track = self._tracks.get(track_id)
            if track is None:
                self._tracks[track_id] = _Track(prob.clone(), 1, embedding.clone(), end)
            else:
                track.probs_sum += prob
                track.windows += 1
                track.embedding = embedding.clone()
                track.last_end = end
        self._seen.append(_Seen(start, ids, tracklets.mask_logits))
        self._reach = max(self._reach, end)

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """Hand out the frames before ``until``, which no later window covers.

        Args:
            until: index of a frame; earlier calls' frames are not handed out again.

        Returns:
            One record per frame, in order; logits on the device of the network.
        """
        frames = [self._frame(index) for index in range(self._next_frame, until)]
        self._next_frame = max(self._next_frame, until)
        self._forget_masks()
        return frames

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """Hand out and forget the tracks that can meet no later window.

        Args:
            everything: also those that could; for the end of the video, or of the patience.

        Returns:
            Summaries by ascending id, those without a class above ``min_score`` included.
        """
        # A later window joins by the frames it shares, which are not handed out yet; without
        # shared frames, by the queries of the latest window.
        oldest = min(self._next_frame, self._reach - 1)
        closed = [i for i, t in self._tracks.items() if everything or t.last_end <= oldest]
        return [self._summary(i, self._tracks.pop(i)) for i in sorted(closed)]

    def _summary(self, track_id: int, track: _Track) -> TrackSummary:
        probs = track.probs
        order = torch.argsort(probs, descending=True, stable=True).tolist()
        kept = [ClassScore(k, float(probs[k])) for k in order if float(probs[k]) > self._min_score]
        return TrackSummary(track_id, tuple(kept))

    def _frame(self, index: int) -> FrameLogits:
        found: dict[int, list[Tensor]] = {}
        for seen in self._seen:
            if seen.start <= index < seen.end:
                for track_id, tube in zip(seen.track_ids, seen.logits, strict=True):
                    found.setdefault(track_id, []).append(tube[index - seen.start])
        ids = tuple(sorted(found))
        best = [self._tracks[i].probs.max(dim=0) for i in ids]
        logits = [torch.stack(found[i]).float().mean(dim=0) for i in ids]
        return FrameLogits(
            index,
            ids,
            tuple(int(b.indices) for b in best),
            tuple(float(b.values) for b in best),
            torch.stack(logits) if logits else torch.zeros(0, 1, 1),
        )

    def _forget_masks(self) -> None:
        kept: list[_Seen] = []
        for seen in self._seen:
            if seen.end > self._next_frame:
                done = max(self._next_frame - seen.start, 0)
                # A copy: a slice would keep the whole window alive.
                logits = seen.logits[:, done:].clone() if done else seen.logits
                kept.append(_Seen(seen.start + done, seen.track_ids, logits))
        self._seen = kept

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


def whole_video_frames(
    tracklets: ClipTracklets, top_k: int
) -> tuple[list[FrameLogits], list[TrackSummary]]:
    """The tracks of a video that was one single window, by the rules of the release.

    See docs/reference/released_code.md#selection.

    Args:
        tracklets: of the whole video.
        top_k: (query, class) pairs that are kept, the best of all.

    Returns:
        One record per frame, whose logits are views; and the summaries in the order of the
        queries, empty tubes included.
    """
    count, num_classes = tracklets.class_probs.shape
    probs = tracklets.class_probs.float().cpu()
    flat = probs.flatten()
    order = torch.argsort(flat, descending=True, stable=True)[:top_k].tolist()
    kept: dict[int, list[ClassScore]] = {}
    for index in order:
        pair = ClassScore(index % num_classes, float(flat[index]))
        kept.setdefault(index // num_classes, []).append(pair)
    rows = sorted(kept)
    ids = tuple(range(1, len(rows) + 1))
    labels = tuple(kept[row][0].label for row in rows)
    scores = tuple(kept[row][0].score for row in rows)
    tubes = tracklets.mask_logits if len(rows) == count else tracklets.mask_logits[rows]
    frames = [FrameLogits(t, ids, labels, scores, tubes[:, t]) for t in range(tracklets.num_frames)]
    summaries = [TrackSummary(i, tuple(kept[row])) for i, row in zip(ids, rows, strict=True)]
    return frames, summaries
