"""What costs AP: every error of a tube detector named, and the AP an oracle wins by mending it.

In the spirit of TIDE (arXiv:2008.08115), which sorts the errors of image detectors; here for
tubes, with one type more. Let ``score`` be the metric's tube score (mask IoU or boundary score),
``fg`` = 0.5 the foreground bar and ``bg`` = 0.1 the background bar. Matching is that of the
protocol at ``fg``, over all areas, with the last maxDets. A detection that neither matched nor is
ignored has exactly one error, the first of this list that fits:

- ``duplicate``: it reaches ``fg`` with a tube of its class, which a better-scored one took.
  Oracle: remove it.
- ``class``: it reaches ``fg`` with a tube of another class. Oracle: give it the right class; if
  that tube is matched already (or a better-scored detection is mended to it), remove it.
- ``temporal``: the masks are right, the linking is not: it switches between objects (counted as
  ``switches``) or follows one object for too short or too long. It reaches ``fg`` with no tube as a
  whole, but in at least half of the frames in which it has pixels its mask reaches ``fg`` (as
  frame mask IoU) with some tube of any class; call the tube of its own class that it follows in
  most frames (the first in the file when several are equal) the followed tube. Over the frames in
  which both have pixels and it follows no other tube, the score reaches ``fg``. Oracle: link it to
  the followed tube; if that one is matched already, remove it.
- ``localisation``: its best tube mask IoU with a tube of its class is at least ``bg``. Oracle: move
  it onto that tube; if that one is matched already, remove it.
- ``both``: the same with a tube of another class. Oracle: remove it.
- ``background``: anything else. Oracle: remove it.

A ground-truth tube is ``missed`` when it is unmatched, not ignored, and no ``class``,
``temporal`` or ``localisation`` error points to it. Oracle: strike it from the ground truth.

Each type is mended alone; its ``dAP`` is AP at ``fg`` after minus before (as in TIDE the numbers do
not add up to 1 - AP). ``false_positive`` removes every unmatched detection, ``false_negative``
strikes every unmatched tube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.runs import Int64
from cocoapi_hq.io.ytvis_json import Source, open_ground_truth, open_list
from cocoapi_hq.names import TUBE_METRICS
from cocoapi_hq.tubes.arrays import Bool, Float64, VideoTubes
from cocoapi_hq.tubes.protocol import TubeProtocol
from cocoapi_hq.tubes.shards import Job, map_videos, tasks_of
from cocoapi_hq.tubes.tube_ap import (
    mean_defined,
    pair_scores,
    sample_precision,
    score_video,
)

#: Types a detection can have, in the order in which they are tried.
DETECTION_ERRORS = ("duplicate", "class", "temporal", "localisation", "both", "background")
#: All rows of the analysis.
ERROR_TYPES = (*DETECTION_ERRORS, "missed")
#: Errors that an oracle mends by giving the detection its tube.
_MENDED = ("class", "temporal", "localisation")
_EPSILON = 2.0**-52


@dataclass
class Detection:
    """One detection that counts.

    Attributes:
        video_id: the video.
        position: place in the result file.
        category: its class.
        score: its score.
        error: one of :data:`DETECTION_ERRORS`, or None when it matched.
        target: annotation id it matched, or that the error points to; None without one.
        target_category: class of that annotation.
        overlap: best tube score with ``target``, or with anything when there is none.
        switches: in a ``temporal`` error, how often the followed object changes.
    """

    video_id: int
    position: int
    category: int
    score: float
    error: str | None
    target: int | None = None
    target_category: int | None = None
    overlap: float = 0.0
    switches: int = 0


@dataclass
class TargetTube:
    """One ground-truth tube that counts.

    Attributes:
        video_id: the video.
        annotation: its id.
        category: its class.
        matched: True if a detection matched it at the foreground bar.
        missed: True if it is ``missed``.
        best_score: best tube score with any detection of its class.
        best_result: position of that detection, -1 for none.
    """

    video_id: int
    annotation: int
    category: int
    matched: bool
    missed: bool = False
    best_score: float = 0.0
    best_result: int = -1


@dataclass
class VideoErrors:
    """Detections and tubes of one video that count."""

    detections: list[Detection] = field(default_factory=list)
    targets: list[TargetTube] = field(default_factory=list)


@dataclass
class ErrorAnalysis:
    """The analysis of one result file.

    Attributes:
        metric: ``tube_mask`` or ``tube_boundary``.
        foreground: the bar fg.
        background: the bar bg.
        ap: AP at fg before mending.
        gains: type -> AP gained; also ``false_positive`` and ``false_negative``.
        counts: type -> detections (or tubes, for ``missed``).
        switches: identity switches inside detections.
        detections: everything that was judged.
        targets: every tube that was asked for.
    """

    metric: str
    foreground: float
    background: float
    ap: float
    gains: dict[str, float]
    counts: dict[str, int]
    switches: int
    detections: list[Detection]
    targets: list[TargetTube]

    def to_dict(self) -> dict[str, Any]:
        """Numbers without the lists."""
        return {
            "foreground": self.foreground,
            "background": self.background,
            "AP": self.ap,
            "dAP": dict(self.gains),
            "counts": dict(self.counts),
            "switches": self.switches,
        }


def analyse_errors(
    gt: Source,
    results: Source,
    metric: str = "tube_mask",
    *,
    protocol: TubeProtocol,
    foreground: float = 0.5,
    background: float = 0.1,
    jobs: int = 1,
) -> ErrorAnalysis:
    """Name the errors of a result file and what each type costs.

    Args:
        gt: annotation file (path or parsed).
        results: result file (path or parsed).
        metric: ``tube_mask`` or ``tube_boundary``.
        protocol: the rules; thresholds and ranges are replaced by ``foreground`` and all areas.
        foreground: bar fg in (0, 1].
        background: bar bg in [0, fg).
        jobs: processes.

    Returns:
        The analysis.

    Raises:
        ScoringError: bad input or bars.
    """
    if metric not in TUBE_METRICS:
        raise ScoringError(f"no tube metric {metric!r}; choose from {', '.join(TUBE_METRICS)}.")
    if not 0.0 <= background < foreground <= 1.0:
        raise ScoringError(f"bars {background} and {foreground} must hold 0 <= bg < fg <= 1.")
    truth = open_ground_truth(gt)
    rules = replace(protocol, thresholds=(foreground,), ranges=protocol.ranges[:1])
    job = Job(judge_video, truth.categories, rules, {"metric": metric, "background": background})
    tasks = tasks_of(truth, open_list(results, "results"))
    detections: list[Detection] = []
    targets: list[TargetTube] = []
    for video in map_videos(job, tasks, jobs):
        detections += video.detections
        targets += video.targets
    base = _mean_ap(detections, targets)
    gains = {kind: _mean_ap(*mend(detections, targets, kind)) - base for kind in ERROR_TYPES}
    matched = [d for d in detections if d.error is None]
    gains["false_positive"] = _mean_ap(matched, targets) - base
    gains["false_negative"] = _mean_ap(detections, [t for t in targets if t.matched]) - base
    counts = {k: sum(d.error == k for d in detections) for k in DETECTION_ERRORS}
    counts["missed"] = sum(t.missed for t in targets)
    return ErrorAnalysis(
        metric,
        foreground,
        background,
        base,
        gains,
        counts,
        sum(d.switches for d in detections),
        detections,
        targets,
    )


def mend(
    detections: Sequence[Detection], targets: Sequence[TargetTube], kind: str
) -> tuple[list[Detection], list[TargetTube]]:
    """What an oracle makes of one type of error; see the head of the module."""
    if kind == "missed":
        return list(detections), [t for t in targets if not t.missed]
    taken = {(d.video_id, d.target) for d in detections if d.error is None}
    out: list[Detection] = []
    for d in sorted(detections, key=lambda d: -d.score):  # stable: ties as in the file
        if d.error != kind:
            out.append(d)
        elif kind in _MENDED and (d.video_id, d.target) not in taken:
            taken.add((d.video_id, d.target))
            category = d.category if d.target_category is None else d.target_category
            out.append(replace(d, error=None, category=category))
    return out, list(targets)


def _mean_ap(detections: Sequence[Detection], targets: Sequence[TargetTube]) -> float:
    """AP at the foreground bar: mean over the classes with ground truth, 0 if there is none."""
    positives: dict[int, int] = {}
    for tube in targets:
        positives[tube.category] = positives.get(tube.category, 0) + 1
    by_class: dict[int, list[Detection]] = {key: [] for key in positives}
    for d in detections:
        if d.category in by_class:
            by_class[d.category].append(d)
    values = [_class_ap(by_class[key], positives[key]) for key in sorted(positives)]
    return max(0.0, mean_defined(np.array(values)))


def _class_ap(detections: list[Detection], positives: int) -> float:
    if not detections:
        return 0.0
    rows = sorted(detections, key=lambda d: (-d.score, d.video_id, d.position))
    tp = np.cumsum([d.error is None for d in rows])
    precision = tp / (np.arange(1, len(rows) + 1) + _EPSILON)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(sample_precision(tp / positives, precision).mean())


def judge_video(
    tubes: VideoTubes, protocol: TubeProtocol, metric: str, background: float
) -> VideoErrors:
    """Give every detection of a video its error.

    Args:
        tubes: the video.
        protocol: one threshold (the foreground bar), one range (all areas).
        metric: the tube metric.
        background: the bar bg.

    Returns:
        Detections and tubes that count.
    """
    gt, dt = tubes.gt, tubes.dt
    num_gt, num_dt = len(gt), len(dt)
    pairs_dt = np.repeat(np.arange(num_dt), num_gt)
    pairs_gt = np.tile(np.arange(num_gt), num_dt)
    scores, _ = pair_scores(tubes, pairs_dt, pairs_gt, ("tube_mask", metric), protocol)
    overlap = scores[metric].reshape(num_dt, num_gt)
    mask_iou = scores["tube_mask"].reshape(num_dt, num_gt)
    dt_row = {int(key): i for i, key in enumerate(dt.keys)}
    gt_row = {int(key): i for i, key in enumerate(gt.keys)}
    out = VideoErrors()
    asked = np.zeros(num_gt, dtype=np.bool_)  # not ignored
    matched = np.zeros(num_gt, dtype=np.bool_)
    unmatched: list[int] = []
    cells = score_video(tubes, protocol, (metric,)).cells[metric]
    for cell in cells:
        columns = [gt_row[int(key)] for key in cell.annotations]
        asked[columns] = ~cell.gt_ignored[0]
        for k, position in enumerate(cell.results.tolist()):
            row, column = dt_row[position], int(cell.matched[0, 0, k])
            if cell.ignored[0, 0, k]:
                continue
            if column < 0:
                unmatched.append(row)
                continue
            target = columns[column]
            matched[target] = True
            out.detections.append(_detection(tubes, row, None, target, float(overlap[row, target])))
    for row in unmatched:
        out.detections.append(
            _judge(tubes, protocol, metric, (overlap, mask_iou), asked, row, background)
        )
    pointed = {d.target for d in out.detections if d.error in _MENDED}
    for g in np.flatnonzero(asked).tolist():
        same = np.flatnonzero((dt.categories == gt.categories[g]) | protocol.class_agnostic)
        out.targets.append(_target(tubes, g, overlap[:, g], same, bool(matched[g]), pointed))
    if protocol.class_agnostic:
        for d in out.detections:
            d.category, d.target_category = -1, -1
        for tube in out.targets:
            tube.category = -1
    return out


def _target(
    tubes: VideoTubes, row: int, overlap: Float64, same: Int64, matched: bool, pointed: set[Any]
) -> TargetTube:
    """A tube, whose overlap with every detection is known; ``same`` are those of its class."""
    best, value = _best(overlap, same)
    key, category = int(tubes.gt.keys[row]), int(tubes.gt.categories[row])
    missed = not matched and key not in pointed
    result = int(tubes.dt.keys[best]) if best >= 0 else -1
    return TargetTube(tubes.video.id, key, category, matched, missed, value, result)


def _detection(
    tubes: VideoTubes,
    row: int,
    error: str | None,
    target: int | None,
    overlap: float,
    switches: int = 0,
) -> Detection:
    dt, gt = tubes.dt, tubes.gt
    return Detection(
        tubes.video.id,
        int(dt.keys[row]),
        int(dt.categories[row]),
        float(dt.scores[row]),
        error,
        None if target is None else int(gt.keys[target]),
        None if target is None else int(gt.categories[target]),
        overlap,
        switches,
    )


def _best(values: Float64, columns: Int64) -> tuple[int, float]:
    """Column and value of the largest of some columns; (-1, 0) when there are none."""
    if not len(columns):
        return -1, 0.0
    best = int(columns[np.argmax(values[columns])])
    return best, float(values[best])


def _judge(
    tubes: VideoTubes,
    protocol: TubeProtocol,
    metric: str,
    overlaps: tuple[Float64, Float64],
    asked: Bool,
    row: int,
    background: float,
) -> Detection:
    bar = protocol.bars[0]
    own = (tubes.gt.categories == tubes.dt.categories[row]) | protocol.class_agnostic
    overlap, mask_iou = overlaps
    same, same_value = _best(overlap[row], np.flatnonzero(asked & own))
    other, other_value = _best(overlap[row], np.flatnonzero(asked & ~own))
    if same >= 0 and same_value >= bar:
        return _detection(tubes, row, "duplicate", same, same_value)
    if other >= 0 and other_value >= bar:
        return _detection(tubes, row, "class", other, other_value)
    followed, switches = _followed(tubes, protocol, metric, row, np.flatnonzero(asked), own)
    if followed >= 0:
        value = float(overlap[row, followed])
        return _detection(tubes, row, "temporal", followed, value, switches)
    near, value = _best(mask_iou[row], np.flatnonzero(asked & own))
    if near >= 0 and value >= background:
        return _detection(tubes, row, "localisation", near, float(overlap[row, near]))
    near, value = _best(mask_iou[row], np.flatnonzero(asked & ~own))
    if near >= 0 and value >= background:
        return _detection(tubes, row, "both", near, float(overlap[row, near]))
    return _detection(tubes, row, "background", None, max(same_value, other_value))


def _followed(
    tubes: VideoTubes, protocol: TubeProtocol, metric: str, row: int, columns: Int64, own: Bool
) -> tuple[int, int]:
    """The tube a detection follows frame by frame, and how often it changes; -1 if none."""
    dt, gt, bar = tubes.dt, tubes.gt, protocol.bars[0]
    if not len(columns):
        return -1, 0
    frames = int(min(dt.frames[row], gt.frames[columns].min()))
    steps = np.arange(frames)
    first_dt = np.tile(dt.first[row] + steps, len(columns))
    first_gt = (gt.first[columns][:, None] + steps).reshape(-1)
    ones = np.ones(len(first_dt), dtype=np.int32)
    inter, union, _ = tubes.masks.tube_sums(first_dt, first_gt, ones)
    iou = np.divide(inter, union, out=np.zeros(len(inter)), where=union > 0)
    iou = iou.reshape(len(columns), frames)
    begin = int(dt.first[row])
    visible = int((tubes.masks.areas[begin : begin + int(dt.frames[row])] > 0).sum())
    best = np.where(iou.max(axis=0) >= bar, iou.argmax(axis=0), -1)  # (frames,)
    hits = best[best >= 0]
    if not visible or 2 * len(hits) < visible:
        return -1, 0
    frames_each = np.where(own[columns], np.bincount(hits, minlength=len(columns)), 0)
    place = int(np.argmax(frames_each))
    if not frames_each[place]:
        return -1, 0
    target = int(columns[place])
    shown = tubes.masks.areas[dt.first[row] + steps] > 0
    shown &= tubes.masks.areas[gt.first[target] + steps] > 0
    together = steps[shown & ((best == -1) | (best == place))]
    if _score_of_frames(tubes, protocol, metric, row, target, together) < bar:
        return -1, 0
    return target, int((np.diff(hits) != 0).sum())


def _score_of_frames(
    tubes: VideoTubes, protocol: TubeProtocol, metric: str, row: int, target: int, frames: Int64
) -> float:
    """The metric's score over some frames only."""
    dt, gt = tubes.dt, tubes.gt
    ones = np.ones(len(frames), dtype=np.int32)
    first_dt = dt.first[row] + frames
    inter, union, _ = tubes.masks.tube_sums(first_dt, gt.first[target] + frames, ones)
    score = float(inter.sum() / max(int(union.sum()), 1))
    if metric == "tube_mask":
        return score
    first_gt = gt.boundary_first[target] + frames
    inter, union, _ = tubes.masks.tube_sums(first_dt, first_gt, ones, tubes.distances)
    boundary = float(inter.sum() / max(int(union.sum()), 1))
    return boundary if protocol.boundary == "paper" else min(score, boundary)
