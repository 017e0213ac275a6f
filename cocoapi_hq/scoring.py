"""Score result files: one call for every metric of the package."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.ytvis_json import (
    Entries,
    GroundTruth,
    Source,
    open_ground_truth,
    open_list,
    unknown_categories,
)
from cocoapi_hq.names import METRICS, TUBE_METRICS
from cocoapi_hq.results import Results, TubeScores
from cocoapi_hq.tubes import tube_ap
from cocoapi_hq.tubes.protocol import TubeProtocol, get_protocol
from cocoapi_hq.tubes.shards import Job, map_videos, tasks_of
from cocoapi_hq.tubes.tube_ap import Cell, VideoScores

logger = logging.getLogger(__name__)

_NAMED_PAIRS = 5
#: Annotations that choose the protocol.
_ASKED = 50


def detect_protocol(truth: GroundTruth) -> str:
    """Name of the protocol that fits the fields of the annotations.

    ``occlusion`` means OVIS; otherwise HQ-YTVIS, which is YouTube-VIS where there are no refined
    masks. Some fifty annotations from all over the file are asked.

    Raises:
        ScoringError: some of them carry ``occlusion`` and some do not.
    """
    rows = sorted({*range(0, len(truth.annotations), max(1, len(truth.annotations) // _ASKED))})
    asked = truth.annotations.subset(rows).load()
    carry = ["occlusion" in entry for entry in asked if isinstance(entry, dict)]
    if any(carry) and not all(carry):
        raise ScoringError(
            f"{truth.name}: some annotations carry 'occlusion' and some do not; choose the rules "
            "with --protocol: ovis needs it in all of them, hq_ytvis in none."
        )
    return "ovis" if any(carry) else "hq_ytvis"


def evaluate(
    gt: Source,
    results: Source,
    metrics: Sequence[str] = TUBE_METRICS,
    *,
    protocol: str | TubeProtocol | None = None,
    boundary: str | None = None,
    mask_field: str | None = None,
    lengths: str | None = None,
    dilation_ratio: float | None = None,
    max_dets: Sequence[int] | None = None,
    class_agnostic: bool | None = None,
    per_video: bool = False,
    jobs: int = 1,
    **track_options: Any,
) -> Results:
    """Score one set of results.

    Args:
        gt: annotation file (path or parsed): YouTube-VIS JSON for tube metrics, Scalabel JSON or a
            bitmask folder for ``bdd_mots``, ``hota`` and ``frame_ap``.
        results: result file of the same kind.
        metrics: names from ``names.METRICS``.
        protocol: name from ``cocoapi_hq.PROTOCOLS`` or a row of one's own; None looks at the fields
            of the annotations.
        boundary: ``official`` (default) or ``paper``.
        mask_field: ground-truth masks, see ``names.MASK_FIELDS``.
        lengths: lists of wrong length, see ``names.LENGTH_RULES``.
        dilation_ratio: boundary width over the frame diagonal, 0.02 by default.
        max_dets: detections per video and class, ascending, (1, 10, 100) by default.
        class_agnostic: score all categories as one.
        per_video: also compute the numbers of every video by itself.
        jobs: processes for the tube metrics, the others use this one; the numbers do not depend on
            it.
        **track_options: ``config``, ``fill_missing_frames``, ``allow_overlap``, ``min_score``,
            ``min_tube_iou``: options of the metrics that are not tube AP.

    Returns:
        The scores; AP and AR are fractions, MOTS numbers percent.

    Raises:
        ScoringError: bad input; the message names the place, the value and the fix.
    """
    _check_call(metrics, jobs)
    out = Results("results" if isinstance(results, (list, tuple, dict)) else str(results))
    tube_metrics = tuple(m for m in TUBE_METRICS if m in metrics)
    if tube_metrics:
        options: dict[str, Any] = {"boundary": boundary, "mask_field": mask_field}
        options |= {"lengths": lengths, "dilation_ratio": dilation_ratio}
        options |= {"max_dets": max_dets, "class_agnostic": class_agnostic}
        _evaluate_tubes(out, gt, results, tube_metrics, protocol, options, per_video, jobs)
    others = [metric for metric in metrics if metric not in TUBE_METRICS]
    if others:
        from cocoapi_hq.mots.track_metrics import evaluate_tracks, read_once  # needs scipy

        chosen = track_options | ({"mask_field": mask_field} if mask_field else {})
        gt, chosen["config"] = read_once(gt, results, chosen)
        out.others = {name: evaluate_tracks(name, gt, results, chosen) for name in others}
    for sentence in out.warnings:
        logger.warning("%s", sentence)
    return out


def _check_call(metrics: Sequence[str], jobs: int) -> None:
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise ScoringError(f"no metric {unknown}; choose from {', '.join(METRICS)}.")
    if jobs < 1:
        raise ScoringError(f"jobs is {jobs}; give at least 1.")


def _evaluate_tubes(
    out: Results,
    gt: Source,
    results: Source,
    metrics: tuple[str, ...],
    protocol: str | TubeProtocol | None,
    options: dict[str, Any],
    per_video: bool,
    jobs: int,
) -> None:
    truth = open_ground_truth(gt)
    entries = open_list(results, "results")
    if protocol is None:
        protocol = detect_protocol(truth)
    rules = get_protocol(protocol) if isinstance(protocol, str) else protocol
    if options["max_dets"] is not None:
        options["max_dets"] = tuple(options["max_dets"])
    rules = rules.with_options(**options)
    job = Job(tube_ap.score_video, truth.categories, rules, {"metrics": metrics})
    videos: list[VideoScores] = list(map_videos(job, tasks_of(truth, entries), jobs))
    _check_annotation_ids(truth, videos)
    out.warnings += _warnings(truth, entries, videos, rules)
    for metric in metrics:
        cells = [cell for video in videos for cell in video.cells[metric]]
        out.tubes[metric] = collect(metric, cells, truth, rules, per_video)


def collect(
    metric: str, cells: list[Cell], truth: GroundTruth, rules: TubeProtocol, per_video: bool
) -> TubeScores:
    """Accumulate and summarise the cells of one metric."""
    curves = tube_ap.accumulate(cells, list(truth.categories), rules)
    scores = TubeScores(
        metric,
        rules,
        tube_ap.summary(curves, rules),
        {key: tube_ap.summary(curves, rules, k) for k, key in enumerate(curves.categories)},
        {},
        dict(truth.categories),
        curves,
        cells,
        sorted(truth.videos),
    )
    if per_video:
        by_video: dict[int, list[Cell]] = {key: [] for key in scores.video_ids}
        for cell in cells:
            by_video[cell.video_id].append(cell)
        for key, group in by_video.items():
            own = sorted({cell.category for cell in group})
            scores.per_video[key] = tube_ap.summary(tube_ap.accumulate(group, own, rules), rules)
    return scores


def _check_annotation_ids(truth: GroundTruth, videos: list[VideoScores]) -> None:
    seen: dict[int, int] = {}
    for video in videos:
        for key in video.annotation_ids:
            if key in seen:
                raise ScoringError(
                    f"{truth.name}: annotation id {key} appears in video_id={seen[key]} and in "
                    f"video_id={video.video_id}; give every tube its own id."
                )
            seen[key] = video.video_id


def _warnings(
    truth: GroundTruth, entries: Entries, videos: list[VideoScores], rules: TubeProtocol
) -> list[str]:
    out = []
    dropped_gt = sum(v.dropped_gt for v in videos)
    if dropped_gt:
        out.append(f"{truth.name}: {dropped_gt} annotations of unknown categories are left out.")
    dropped_dt: Counter[int] = Counter()
    for video in videos:
        dropped_dt.update(video.dropped_dt)
    if dropped_dt:
        out.append(unknown_categories(entries.name, dropped_dt, truth.categories))
    renamed = [v for v in videos if v.other_name]
    if renamed:
        out.append(
            f"{entries.name}: results of video_id={renamed[0].video_id} call it "
            f"{renamed[0].other_name!r}, {truth.name} calls it otherwise ({len(renamed)} videos in "
            "all); are the ids those of this file?"
        )
    refined = sum(v.refined for v in videos)
    if refined:
        how = (
            "for the boundary term, segmentations for the mask term"
            if rules.mask_field == "mixed"
            else "for both terms"
        )
        out.append(
            f"{truth.name}: {refined} annotations carry segmentations_refined, used {how} "
            "(--mask-field segmentations reads the others)."
        )
    pairs = [(v.video_id, *pair) for v in videos for pair in v.vanished]
    if pairs:
        named = "; ".join(
            f"video_id={video}, results[{result}], annotation id={annotation}: {frames} frames"
            for video, result, annotation, frames in pairs[:_NAMED_PAIRS]
        )
        more = f"; and {len(pairs) - _NAMED_PAIRS} more pairs" if len(pairs) > _NAMED_PAIRS else ""
        out.append(
            f"{entries.name}: masks of another size than the ground truth; these frames count in "
            f"neither intersection nor union, as in the originals: {named}{more}."
        )
    return out
