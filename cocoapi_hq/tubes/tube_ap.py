"""Tube AP: IoU of tubes, greedy matching, precision and recall, as the official evaluators do it.

Sources: the YouTube-VIS evaluator (arXiv:1905.04804), the HQ-YTVIS evaluator released with VMT
(arXiv:2207.14012) and the OVIS evaluator. Where they crash or depart from the papers, the module
docstring of :mod:`cocoapi_hq.tubes.protocol` and the fields there say what is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cocoapi_hq.io import native
from cocoapi_hq.io.runs import Int32, Int64
from cocoapi_hq.names import TUBE_METRICS
from cocoapi_hq.tubes.arrays import Bool, Float64, Side, VideoTubes
from cocoapi_hq.tubes.protocol import RECALL_POINTS, TubeProtocol

#: Category id of everything in class-agnostic mode.
ANY_CATEGORY = -1
_EPSILON = 2.0**-52


@dataclass
class Cell:
    """One video, one category, one metric: what accumulation needs, a few kilobytes.

    Attributes:
        video_id: the video.
        category: category id.
        results: (D,) positions in the result file, by descending score, cut to the last maxDets.
        annotations: (G,) ids.
        scores: (D,).
        matched: (R, Th, D) int32 column of the ground truth, -1 for none.
        ignored: (R, Th, D) True where the detection counts neither way.
        gt_ignored: (R, G) True where the ground truth is not asked for.
        iou: (D, G) what entered matching; pairs that cannot reach a threshold hold the mask IoU.
        dt_area: (D,) average area in pixels.
        gt_area: (G,) average area in pixels.
    """

    video_id: int
    category: int
    results: Int64
    annotations: Int64
    scores: Float64
    matched: Int32
    ignored: Bool
    gt_ignored: Bool
    iou: Float64
    dt_area: Float64
    gt_area: Float64

    @property
    def positives(self) -> Int64:
        """(R,) ground-truth tubes that are asked for."""
        return np.asarray((~self.gt_ignored).sum(axis=1), dtype=np.int64)


@dataclass
class VideoScores:
    """What one video contributes.

    Attributes:
        video_id: the video.
        cells: metric -> cells by ascending category.
        dropped_gt: annotations of unknown categories.
        dropped_dt: unknown category -> results that have it.
        refined: annotations whose refined masks were read.
        annotation_ids: ids, so that repeated ones are found across videos.
        other_name: a ``video_name`` of the results that is not this video's, or "".
        vanished: (result, annotation, frames) of pairs with masks of different size.
    """

    video_id: int
    cells: dict[str, list[Cell]]
    dropped_gt: int = 0
    dropped_dt: dict[int, int] = field(default_factory=dict)
    refined: int = 0
    annotation_ids: list[int] = field(default_factory=list)
    vanished: list[tuple[int, int, int]] = field(default_factory=list)
    other_name: str = ""


def _ratio(inter: Int64, union: Int64) -> Float64:
    return np.divide(inter, union, out=np.zeros(len(inter)), where=union > 0)


def pair_scores(
    tubes: VideoTubes,
    dt_index: Int64,
    gt_index: Int64,
    metrics: Sequence[str],
    protocol: TubeProtocol,
) -> tuple[dict[str, Float64], Int32]:
    """Score pairs of tubes.

    The tube IoU is the sum of intersections over the sum of unions of all frames; a frame whose
    masks differ in size counts in neither. The boundary score is the minimum of the mask IoU and
    the same ratio over boundary regions (``official``), or the latter alone (``paper``, Eq. 1 of
    arXiv:2207.14012); crowd ground truth has no contour and keeps the mask IoU in both.

    Args:
        tubes: one video.
        dt_index: (K,) rows of ``tubes.dt``.
        gt_index: (K,) rows of ``tubes.gt``.
        metrics: some of ``names.TUBE_METRICS``.
        protocol: the rules.

    Returns:
        Metric -> (K,) scores in [0, 1], and the number of frames (K,) that vanished. Boundary
        scores of pairs that cannot reach the lowest threshold hold the mask IoU.
    """
    gt, dt = tubes.gt, tubes.dt
    frames = np.minimum(dt.frames[dt_index], gt.frames[gt_index])
    first_dt = dt.first[dt_index]
    inter, union, vanished = tubes.masks.tube_sums(first_dt, gt.first[gt_index], frames)
    mask_iou = _ratio(inter, union)
    out: dict[str, Float64] = {}
    if "tube_mask" in metrics:
        out["tube_mask"] = mask_iou
    if "tube_boundary" in metrics:
        score = mask_iou.copy()
        if protocol.boundary == "official":
            wanted = mask_iou >= min(protocol.bars)  # the score is a minimum
        elif protocol.mask_field == "mixed":
            wanted = np.ones(len(mask_iou), dtype=np.bool_)
        else:
            wanted = inter > 0  # no shared pixel, no shared boundary
            score[~wanted] = 0.0
        wanted &= ~gt.crowd[gt_index]
        if protocol.boundary == "paper":
            score[gt.crowd[gt_index]] = mask_iou[gt.crowd[gt_index]]
        if wanted.any():
            b_inter, b_union, _ = tubes.masks.tube_sums(
                first_dt[wanted],
                gt.boundary_first[gt_index[wanted]],
                frames[wanted],
                tubes.distances,
            )
            boundary_iou = _ratio(b_inter, b_union)
            if protocol.boundary == "official":
                boundary_iou = np.minimum(mask_iou[wanted], boundary_iou)
            score[wanted] = boundary_iou
        out["tube_boundary"] = score
    return out, vanished


def match_numpy(iou: Float64, gt_ignored: Bool, crowd: Bool, bars: Float64, order: Int32) -> Int32:
    """Greedy matching by score, for every range and threshold.

    A detection takes the best free ground truth that reaches the bar (inclusive; of two equal IoUs
    the later in ``order``). Crowds can be taken again; a match that counts is never given up for
    an ignored one.

    Args:
        iou: (D, G), detections by descending score.
        gt_ignored: (R, G).
        crowd: (G,).
        bars: (Th,).
        order: (R, G) columns, those not ignored first.

    Returns:
        (R, Th, D) column of the match, -1 for none.
    """
    num_ranges, num_gt = gt_ignored.shape
    matched = np.full((num_ranges, len(bars), len(iou)), -1, dtype=np.int32)
    for r in range(num_ranges):
        for t, bar in enumerate(bars):
            taken = np.zeros(num_gt, dtype=np.bool_)
            for d, row in enumerate(iou):
                best, found = float(bar), -1
                for g in order[r]:
                    if taken[g] and not crowd[g]:
                        continue
                    if found >= 0 and not gt_ignored[r, found] and gt_ignored[r, g]:
                        break
                    if row[g] < best:
                        continue
                    best, found = float(row[g]), int(g)
                matched[r, t, d] = found
                if found >= 0:
                    taken[found] = True
    return matched


def match(iou: Float64, gt_ignored: Bool, crowd: Bool, bars: Float64) -> Int32:
    """:func:`match_numpy` by the kernel when it is there, and at once when nothing can match."""
    num_dt, num_gt = iou.shape
    num_ranges = len(gt_ignored)
    if not iou.size or float(iou.max()) < float(bars.min()):
        return np.full((num_ranges, len(bars), num_dt), -1, dtype=np.int32)
    order = np.argsort(gt_ignored, axis=1, kind="stable").astype(np.int32)
    library = native.kernel()
    if library is None:
        return match_numpy(iou, gt_ignored, crowd, bars, order)
    matched = np.empty((num_ranges, len(bars), num_dt), dtype=np.int32)
    iou = np.ascontiguousarray(iou, dtype=np.float64)
    ignored = np.ascontiguousarray(gt_ignored, dtype=np.uint8)
    crowd8 = np.ascontiguousarray(crowd, dtype=np.uint8)
    taken = np.empty(num_gt, dtype=np.uint8)
    arrays = (iou, ignored, crowd8, np.ascontiguousarray(bars), order, matched, taken)
    library.hq_match(num_dt, num_gt, num_ranges, len(bars), *(int(a.ctypes.data) for a in arrays))
    return matched


def outside_ranges(area: Float64, occlusion: Float64 | None, protocol: TubeProtocol) -> Bool:
    """(R, N) True where a tube lies outside a range; both ends belong to a range.

    Args:
        area: (N,) average areas in pixels.
        occlusion: (N,) scores, or None for detections, which have none.
        protocol: the ranges.
    """
    rows = []
    for part in protocol.ranges:
        out = (area < part.area[0]) | (area > part.area[1])
        if part.occlusion is not None and occlusion is not None:
            out = out | (occlusion < part.occlusion[0]) | (occlusion > part.occlusion[1])
        rows.append(out)
    return np.array(rows, dtype=np.bool_).reshape(len(protocol.ranges), len(area))


def score_video(
    tubes: VideoTubes, protocol: TubeProtocol, metrics: Sequence[str] = TUBE_METRICS
) -> VideoScores:
    """Match the detections of one video.

    Args:
        tubes: the video.
        protocol: the rules.
        metrics: some of ``names.TUBE_METRICS``.

    Returns:
        The cells of the video.
    """
    gt, dt = tubes.gt, tubes.dt
    groups = _groups(gt, dt, protocol)
    dt_pairs = [np.repeat(d, len(g)) for _, d, g in groups]
    gt_pairs = [np.tile(g, len(d)) for _, d, g in groups]
    none = np.zeros(0, dtype=np.int64)
    all_dt, all_gt = (np.concatenate([none, *pairs]) for pairs in (dt_pairs, gt_pairs))
    scores, vanished = pair_scores(tubes, all_dt, all_gt, metrics, protocol)
    dt_outside = outside_ranges(dt.area, None, protocol)
    gt_ignored = outside_ranges(gt.area, gt.occlusion, protocol) | gt.crowd
    bars = np.array(protocol.bars)
    out = VideoScores(
        tubes.video.id,
        {m: [] for m in metrics},
        tubes.dropped_gt,
        tubes.dropped_dt,
        tubes.refined,
        gt.keys.tolist(),
        [
            (int(dt.keys[all_dt[k]]), int(gt.keys[all_gt[k]]), int(vanished[k]))
            for k in np.flatnonzero(vanished)
        ],
        tubes.other_name,
    )
    at = 0
    for category, d, g in groups:
        stop = at + len(d) * len(g)
        for metric in metrics:
            iou = scores[metric][at:stop].reshape(len(d), len(g))
            ignored = gt_ignored[:, g]
            matched = match(iou, ignored, gt.crowd[g], bars)
            out.cells[metric].append(
                Cell(
                    tubes.video.id,
                    category,
                    dt.keys[d],
                    gt.keys[g],
                    dt.scores[d],
                    matched,
                    ignored_detections(matched, ignored, dt_outside[:, d]),
                    ignored,
                    iou,
                    dt.area[d],
                    gt.area[g],
                )
            )
        at = stop
    return out


def ignored_detections(matched: Int32, gt_ignored: Bool, dt_outside: Bool) -> Bool:
    """A match passes on the flag of its ground truth; without one, the own area decides."""
    unmatched = np.broadcast_to(dt_outside[:, None, :], matched.shape)
    if not gt_ignored.shape[1]:
        return unmatched.copy()
    rows = np.arange(len(gt_ignored))[:, None, None]
    return np.where(matched >= 0, gt_ignored[rows, np.maximum(matched, 0)], unmatched)


def _groups(gt: Side, dt: Side, protocol: TubeProtocol) -> list[tuple[int, Int64, Int64]]:
    """(category, detections by descending score, ground truth) of one video."""
    by_score = np.argsort(-dt.scores, kind="stable")
    limit = protocol.max_dets[-1]
    if protocol.class_agnostic:
        whole = (ANY_CATEGORY, by_score[:limit], np.arange(len(gt)))
        return [whole] if len(gt) or len(dt) else []
    sorted_categories = dt.categories[by_score]
    return [
        (
            category,
            by_score[sorted_categories == category][:limit],
            np.flatnonzero(gt.categories == category),
        )
        for category in sorted({*gt.categories.tolist(), *dt.categories.tolist()})
    ]


@dataclass
class Curves:
    """Accumulated numbers of one metric; -1 where there is no ground truth.

    Letters: Th thresholds, P 101 recall points, K categories, R ranges, M maxDets.

    Attributes:
        categories: K ids, ascending.
        precision: (Th, P, K, R, M).
        recall: (Th, K, R, M) the last recall.
        positives: (K, R) ground-truth tubes that are asked for.
    """

    categories: list[int]
    precision: Float64
    recall: Float64
    positives: Int64


def accumulate(cells: Iterable[Cell], categories: Sequence[int], protocol: TubeProtocol) -> Curves:
    """Turn matches into precision and recall.

    Args:
        cells: the cells of one metric; the order does not matter.
        categories: ids of all categories of the ground truth.
        protocol: the rules.

    Returns:
        The curves.
    """
    keys = [ANY_CATEGORY] if protocol.class_agnostic else sorted(categories)
    by_category: dict[int, list[Cell]] = {key: [] for key in keys}
    for cell in cells:
        by_category[cell.category].append(cell)
    num_thresholds, num_ranges = len(protocol.thresholds), len(protocol.ranges)
    shape = (num_thresholds, len(keys), num_ranges, len(protocol.max_dets))
    precision = np.full((shape[0], len(RECALL_POINTS), *shape[1:]), -1.0)
    recall = np.full(shape, -1.0)
    positives = np.zeros((len(keys), num_ranges), dtype=np.int64)
    for k, key in enumerate(keys):
        group = sorted(by_category[key], key=lambda c: c.video_id)
        if not group:
            continue
        positives[k] = np.sum([c.positives for c in group], axis=0)
        for m, max_dets in enumerate(protocol.max_dets):
            p, r = _curve(group, positives[k], max_dets)
            precision[:, :, k, :, m] = p
            recall[:, k, :, m] = r
    return Curves(list(keys), precision, recall, positives)


def _curve(cells: list[Cell], positives: Int64, max_dets: int) -> tuple[Float64, Float64]:
    """Precision (Th, P, R) and recall (Th, R) of one category."""
    num_ranges, num_thresholds = cells[0].matched.shape[:2]
    precision = np.full((num_thresholds, len(RECALL_POINTS), num_ranges), -1.0)
    recall = np.full((num_thresholds, num_ranges), -1.0)
    scores = np.concatenate([c.scores[:max_dets] for c in cells])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([c.matched[:, :, :max_dets] for c in cells], axis=2)[:, :, order]
    ignored = np.concatenate([c.ignored[:, :, :max_dets] for c in cells], axis=2)[:, :, order]
    tp = np.cumsum((matched >= 0) & ~ignored, axis=2)
    fp = np.cumsum((matched < 0) & ~ignored, axis=2)
    for r in range(num_ranges):
        if not positives[r]:
            continue
        if not len(scores):
            precision[:, :, r] = 0.0
            recall[:, r] = 0.0
            continue
        rc = tp[r] / positives[r]  # (Th, D)
        pr = tp[r] / (tp[r] + fp[r] + _EPSILON)
        pr = np.maximum.accumulate(pr[:, ::-1], axis=1)[:, ::-1]
        recall[:, r] = rc[:, -1]
        for t in range(num_thresholds):
            precision[t, :, r] = sample_precision(rc[t], pr[t])
    return precision, recall


def sample_precision(recall: Float64, precision: Float64) -> Float64:
    """Precision at the 101 recall points: at the first position that reaches the point, or 0.

    Args:
        recall: (D,) ascending.
        precision: (D,) not increasing.
    """
    at = np.searchsorted(recall, RECALL_POINTS, side="left")
    return np.where(at < len(precision), precision[np.minimum(at, len(precision) - 1)], 0.0)


def mean_defined(values: Float64) -> float:
    """Mean of the entries above -1; -1 if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def summary(
    curves: Curves, protocol: TubeProtocol, category: int | None = None
) -> dict[str, float]:
    """The numbers that tables show, as fractions, -1 where undefined.

    Args:
        curves: accumulated numbers.
        protocol: the rules they were made with.
        category: position in ``curves.categories``; None means over all.

    Returns:
        AP, AP50, AP75, AP of every range, AR by maxDets, AR of every range.
    """
    pick = slice(None) if category is None else slice(category, category + 1)
    precision, recall = curves.precision[:, :, pick], curves.recall[:, pick]
    out = {"AP": mean_defined(precision[..., 0, -1])}
    for name, value in (("AP50", 0.5), ("AP75", 0.75)):
        near = (t for t, bar in enumerate(protocol.thresholds) if abs(bar - value) < 1e-9)
        t = next(near, None)
        out[name] = -1.0 if t is None else mean_defined(precision[t, ..., 0, -1])
    for r, part in enumerate(protocol.ranges):
        if part.label:
            out["AP" + part.label] = mean_defined(precision[..., r, -1])
    for m, max_dets in enumerate(protocol.max_dets):
        out[f"AR{max_dets}"] = mean_defined(recall[..., 0, m])
    for r, part in enumerate(protocol.ranges):
        if part.label:
            out["AR" + part.label] = mean_defined(recall[..., r, -1])
    return out
