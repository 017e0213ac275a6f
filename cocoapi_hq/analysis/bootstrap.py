"""How sure a score is: bootstrap over videos, paired when several result files are compared.

A resample draws as many videos as there are, with replacement; a video drawn w times counts w
times. Detections are sorted once; a resample only changes how often each of them counts, so
thousands of resamples cost seconds. (Repeating a detection w times in place moves precision within
the group only, and the running maximum removes exactly that.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.results import TubeScores
from cocoapi_hq.tubes.protocol import RECALL_POINTS
from cocoapi_hq.tubes.tube_ap import Cell

Float64 = npt.NDArray[np.float64]
_EPSILON = 2.0**-52


@dataclass(frozen=True)
class Interval:
    """A score and the middle 95% of its resamples, as fractions; all -1 where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Result files against the first of them.

    Attributes:
        metric: the tube metric.
        key: ``AP``, ``AP50`` or ``AP75``.
        intervals: one per file.
        differences: file minus the first file, one per file; the first is all 0.
        wins: share of resamples in which the file beats the first.
    """

    metric: str
    key: str
    intervals: list[Interval]
    differences: list[Interval]
    wins: list[float]


def draw_weights(videos: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """(resamples, videos) how often every video counts."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(videos, np.full(videos, 1.0 / videos), size=resamples).astype(np.int64)


def resample_ap(
    cells: Sequence[Cell],
    video_ids: Sequence[int],
    weights: npt.NDArray[np.int64],
    thresholds: Sequence[int],
    max_dets: int,
) -> Float64:
    """AP of every resample.

    Args:
        cells: matches of one result file.
        video_ids: ids that the columns of ``weights`` stand for.
        weights: (B, videos) how often every video counts.
        thresholds: positions of the IoU thresholds to average over.
        max_dets: detections per video and class.

    Returns:
        (B,) AP over all areas as fractions; -1 where no class has ground truth.
    """
    column = {key: i for i, key in enumerate(video_ids)}
    by_category: dict[int, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: c.video_id):
        by_category.setdefault(cell.category, []).append(cell)
    total, defined = np.zeros(len(weights)), np.zeros(len(weights))
    for group in by_category.values():
        per_cell = np.array([int(c.positives[0]) for c in group])
        positives = weights[:, [column[c.video_id] for c in group]] @ per_cell  # (B,)
        value = _category_ap(group, column, weights, positives, thresholds, max_dets)
        total += np.where(positives > 0, value, 0.0)
        defined += positives > 0
    return np.where(defined > 0, total / np.maximum(defined, 1), -1.0)


def _category_ap(
    group: list[Cell],
    column: dict[int, int],
    weights: npt.NDArray[np.int64],
    positives: npt.NDArray[np.int64],
    thresholds: Sequence[int],
    max_dets: int,
) -> Float64:
    scores = np.concatenate([c.scores[:max_dets] for c in group])
    out = np.zeros(len(weights))
    if not len(scores):
        return out
    order = np.argsort(-scores, kind="stable")
    videos = np.concatenate([np.full(len(c.scores[:max_dets]), column[c.video_id]) for c in group])[
        order
    ]
    matched = np.concatenate([c.matched[0, :, :max_dets] for c in group], axis=1)[:, order]
    ignored = np.concatenate([c.ignored[0, :, :max_dets] for c in group], axis=1)[:, order]
    often = weights[:, videos]  # (B, D)
    for t in thresholds:
        tp = np.cumsum(often * ((matched[t] >= 0) & ~ignored[t]), axis=1)
        fp = np.cumsum(often * ((matched[t] < 0) & ~ignored[t]), axis=1)
        recall = tp / np.maximum(positives, 1)[:, None]
        precision = tp / (tp + fp + _EPSILON)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # Right end of the span of recall points that every position is the first to reach.
        reached = np.searchsorted(RECALL_POINTS, recall, side="right")  # (B, D)
        gained = np.diff(reached, axis=1, prepend=0)
        out += (gained * precision).sum(axis=1) / len(RECALL_POINTS)
    return out / len(thresholds)


def _middle(value: float, samples: Float64, defined: bool) -> Interval:
    if not len(samples) or not defined:
        return Interval(-1.0, -1.0, -1.0)
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def compare(
    scores: Sequence[TubeScores], key: str = "AP", resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Confidence intervals of several result files on the same ground truth.

    Args:
        scores: the same metric of every file; the first one is the reference.
        key: ``AP`` (all thresholds), ``AP50`` or ``AP75``.
        resamples: number of resamples.
        seed: of the draw; the same draw serves every file, so differences are paired.

    Returns:
        Intervals of every file and of its difference to the first.

    Raises:
        ScoringError: no file, another key, fewer than one resample, or different ground truth.
    """
    if not scores:
        raise ScoringError("nothing to compare; give at least one result file.")
    first = scores[0]
    if any(s.video_ids != first.video_ids or s.metric != first.metric for s in scores):
        raise ScoringError("only scores of one metric on the same ground truth can be compared.")
    if resamples < 1:
        raise ScoringError(f"resamples is {resamples}; give at least 1.")
    bars = np.array(first.protocol.thresholds)
    wanted = {"AP": None, "AP50": 0.5, "AP75": 0.75}
    if key not in wanted:
        raise ScoringError(f"no bootstrap for {key!r}; choose from {', '.join(wanted)}.")
    value = wanted[key]
    chosen = range(len(bars)) if value is None else np.flatnonzero(abs(bars - value) < 1e-9)
    if not len(chosen):
        raise ScoringError(f"{key} needs the IoU threshold {value}, which the protocol lacks.")
    weights = draw_weights(len(first.video_ids), resamples, seed)
    samples = [
        resample_ap(s.cells, s.video_ids, weights, list(chosen), s.protocol.max_dets[-1])
        for s in scores
    ]
    usable = np.all([x > -1 for x in samples], axis=0)
    samples = [x[usable] for x in samples]
    values = [s.stats[key] for s in scores]
    defined = min(values) > -1
    return Comparison(
        first.metric,
        key,
        [_middle(v, x, defined) for v, x in zip(values, samples, strict=True)],
        [
            _middle(v - values[0], x - samples[0], defined)
            for v, x in zip(values, samples, strict=True)
        ],
        [float((x > samples[0]).mean()) if len(x) else 0.0 for x in samples],
    )
