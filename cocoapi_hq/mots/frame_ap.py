"""Mask AP on single frames, the "mAP" beside the tracking numbers of BDD100K MOTS.

COCO's rule with "image" = frame: AP over IoU 0.50:0.05:0.95 per class, 100 detections per frame
and class, areas from masks. Source: Scalabel 071d073, instance segmentation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.mots.frame_masks import BoolArray, FloatArray, FrameMasks, IntArray
from cocoapi_hq.mots.mask_tables import MaskTable, mask_tables
from cocoapi_hq.mots.mots_config import JsonSource, MotsConfig, config_inside, load_config
from cocoapi_hq.mots.scalabel_io import load_frames

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETS = (1, 10, 100)
#: (low, high) in pixels, both ends inclusive: all, small, medium, large.
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))

_BARS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
_EPS = 2.0**-52
# name -> (recall instead of precision, threshold or None for all, area range, position in MAX_DETS)
_NUMBERS: Mapping[str, tuple[bool, int | None, int, int]] = {
    "AP": (False, None, 0, 2),
    "AP50": (False, 0, 0, 2),
    "AP75": (False, 5, 0, 2),
    "APs": (False, None, 1, 2),
    "APm": (False, None, 2, 2),
    "APl": (False, None, 3, 2),
    "AR1": (True, None, 0, 0),
    "AR10": (True, None, 0, 1),
    "AR100": (True, None, 0, 2),
    "ARs": (True, None, 1, 2),
    "ARm": (True, None, 2, 2),
    "ARl": (True, None, 3, 2),
}


@dataclass(frozen=True)
class FrameApResult:
    """Single-frame mask AP.

    Attributes:
        classes: leaf classes.
        allow_overlap: False if frames with overlapping predictions were emptied (BDD100K's rule);
            True for plain COCO. The two readings differ visibly, so say which was used.
        precision: (C, A, T, R) in [0, 1]; nan for a class or range without ground truth.
        recall: (C, A, T, M) in [0, 1], the last recall; nan likewise.
        num_overlapping: frames whose predictions were dropped for overlap.
    """

    classes: tuple[str, ...]
    allow_overlap: bool
    precision: FloatArray
    recall: FloatArray
    num_overlapping: int = 0

    def rows(self) -> dict[str, dict[str, float]]:
        """Number -> class and OVERALL -> percent; nan where there is no ground truth.

        OVERALL is the mean over the classes that have ground truth.
        """
        table: dict[str, dict[str, float]] = {}
        for key, (is_recall, threshold, area, dets) in _NUMBERS.items():
            values = self.recall[:, area, :, dets] if is_recall else self.precision[:, area]
            if threshold is not None:
                values = values[:, threshold]
            row = {name: _percent(values[label]) for label, name in enumerate(self.classes)}
            row["OVERALL"] = _percent(values)
            table[key] = row
        return table

    def to_dict(self) -> dict[str, Any]:
        """OVERALL numbers, ``per_class`` (class -> numbers) and the overlap rule; percent."""
        table = self.rows()
        content: dict[str, Any] = {key: row["OVERALL"] for key, row in table.items()}
        content["per_class"] = {
            name: {key: row[name] for key, row in table.items()} for name in self.classes
        }
        content["allow_overlap"] = self.allow_overlap
        content["num_overlapping"] = self.num_overlapping
        return content


def evaluate_frame_ap(
    gt: JsonSource,
    results: JsonSource,
    config: MotsConfig | JsonSource | None = None,
    allow_overlap: bool = False,
) -> FrameApResult:
    """Score detections (or tracked masks) frame by frame, ignoring identity.

    Frames go by ``name``, or by ``videoName/name`` when names repeat. Frames without predictions
    are allowed. Ground truth flagged crowd or ignored takes any number of detections of its own
    class, with intersection over detection area as the IoU. Flags of predictions and distractor
    names have no effect here (``other vehicle`` is a car like any other), unlike in MOTS.

    Args:
        gt: file, folder of files, or loaded content with the ground truth.
        results: the same with the predictions; each needs a score.
        config: classes, see ``mots_config.load_config``.
        allow_overlap: False drops all predictions of a frame in which two of them share a pixel
            (BDD100K's rule); True is plain COCO.

    Raises:
        ScoringError: any defect in the files, or no predicted frame is in the ground truth.
    """
    classes = load_config(config if config is not None else config_inside(gt))
    gt_frames = load_frames(gt, classes, is_gt=True, need_tracks=False)
    pred_frames = load_frames(results, classes, is_gt=False, need_tracks=False, need_scores=True)
    by_gt, by_pred = _key_frames(gt_frames, pred_frames)
    tallies = [_ClassTally() for _ in classes.classes]
    num_overlapping = wrong_size = 0
    keys = sorted(by_gt)
    nothing = FrameMasks("", "", 0)
    aligned = [by_pred.get(key, nothing) for key in keys]
    tables = mask_tables([by_gt[key] for key in keys], aligned)
    for key, preds, table in zip(keys, aligned, tables, strict=True):
        dropped = table.overlapping and not allow_overlap
        num_overlapping += dropped
        wrong_size += table.sizes_differ
        _add_frame(tallies, by_gt[key], preds, table, dropped)
    if wrong_size:
        logger.warning(
            "results: in %d frames masks differ in size from the ground truth; such masks never "
            "match",
            wrong_size,
        )
    if num_overlapping:
        logger.warning(
            "results: two predicted masks overlap in %d frames; all predictions of these frames "
            "are dropped. Use --allow-overlap for plain COCO numbers.",
            num_overlapping,
        )
    curves = [tally.curves() for tally in tallies]
    return FrameApResult(
        classes.classes,
        allow_overlap,
        np.stack([precision for precision, _ in curves]),
        np.stack([recall for _, recall in curves]),
        num_overlapping,
    )


@dataclass
class _ClassTally:
    """Matched detections of one class; A area ranges, T thresholds."""

    num_gt: IntArray = field(default_factory=lambda: np.zeros(len(AREA_RANGES), dtype=np.int64))
    scores: list[FloatArray] = field(default_factory=list)  # (D,) per frame
    ranks: list[IntArray] = field(default_factory=list)  # (D,) place by score in its frame
    matched: list[BoolArray] = field(default_factory=list)  # (A, T, D)
    ignored: list[BoolArray] = field(default_factory=list)  # (A, T, D)

    def curves(self) -> tuple[FloatArray, FloatArray]:
        """Precision (A, T, R) at the recall points and last recall (A, T, M)."""
        num_areas, num_bars = len(AREA_RANGES), len(_BARS)
        precision = np.full((num_areas, num_bars, len(RECALL_POINTS)), np.nan)
        recall = np.full((num_areas, num_bars, len(MAX_DETS)), np.nan)
        defined = self.num_gt > 0
        precision[defined] = 0.0
        recall[defined] = 0.0
        if not self.scores:
            return precision, recall
        scores, ranks = np.concatenate(self.scores), np.concatenate(self.ranks)
        matched = np.concatenate(self.matched, axis=2)
        ignored = np.concatenate(self.ignored, axis=2)
        order = np.argsort(-scores, kind="stable")
        for m, most in enumerate(MAX_DETS):
            chosen = order[ranks[order] < most]
            counted = ~ignored[:, :, chosen]
            hits = np.cumsum(matched[:, :, chosen] & counted, axis=2)  # (A, T, D)
            recall[defined, :, m] = hits[defined, :, -1] / self.num_gt[defined, None]
        false = np.cumsum(~matched[:, :, chosen] & counted, axis=2)
        for area in np.flatnonzero(defined).tolist():
            for bar in range(num_bars):
                keep = counted[area, bar]
                tp = hits[area, bar][keep].astype(np.float64)
                fp = false[area, bar][keep]
                envelope = np.maximum.accumulate((tp / (tp + fp + _EPS))[::-1])[::-1]
                place = np.searchsorted(tp / self.num_gt[area], RECALL_POINTS, side="left")
                inside = place < len(envelope)
                precision[area, bar, inside] = envelope[place[inside]]
        return precision, recall


def _percent(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return 100.0 * float(defined.mean()) if defined.size else math.nan


def _key_frames(
    gt: Sequence[FrameMasks], preds: Sequence[FrameMasks]
) -> tuple[dict[str, FrameMasks], dict[str, FrameMasks]]:
    """Frames by name, or by ``videoName/name`` on both sides when names repeat on either."""
    repeated = any(len({frame.name for frame in side}) < len(side) for side in (gt, preds))
    tables = []
    for side in (gt, preds):
        table: dict[str, FrameMasks] = {}
        for frame in side:
            key = f"{frame.video}/{frame.name}" if repeated else frame.name
            if key in table:
                raise ScoringError(
                    f"{frame.where}: frame {key!r} appears twice (also at {table[key].where}); "
                    "give every frame one entry."
                )
            table[key] = frame
        tables.append(table)
    by_gt, by_pred = tables
    unknown = [key for key in by_pred if key not in by_gt]
    if unknown and len(unknown) == len(by_pred) and by_gt:
        raise ScoringError(
            f"results: no frame is in the ground truth, for example {unknown[0]!r}; name "
            f"frames as in the ground truth, such as {min(by_gt)!r}."
        )
    if unknown:
        logger.warning(
            "results: %d frames are not in the ground truth and are left out, for example %r",
            len(unknown),
            unknown[0],
        )
    return by_gt, by_pred


def _add_frame(
    tallies: Sequence[_ClassTally],
    gt: FrameMasks,
    preds: FrameMasks,
    table: MaskTable,
    dropped: bool,
) -> None:
    """Match one frame; ``dropped`` leaves its predictions out."""
    gt_labels = np.array(gt.labels, dtype=np.int64)
    pred_labels = np.array([] if dropped else preds.labels, dtype=np.int64)
    if not len(gt_labels) and not len(pred_labels):
        return
    crowd = np.array(gt.ignored, dtype=np.bool_)
    gt_areas, pred_areas = table.gt_areas, table.pred_areas
    scores = np.array(preds.scores, dtype=np.float64)
    iou = np.where(crowd[:, None], table.share_of_prediction(), table.iou()).T  # (P, G)
    for label in np.unique(np.concatenate([gt_labels, pred_labels])).tolist():
        rows = np.flatnonzero(pred_labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")][: MAX_DETS[-1]]
        cols = np.flatnonzero(gt_labels == label)
        out = [(gt_areas[cols] < low) | (gt_areas[cols] > high) for low, high in AREA_RANGES]
        ignored_gt = np.stack(out) | crowd[cols]  # (A, G)
        tally = tallies[label]
        tally.num_gt += (~ignored_gt).sum(axis=1)
        if not len(rows):
            continue
        partner = _match(iou[np.ix_(rows, cols)], ignored_gt, crowd[cols])  # (A, T, D)
        matched = partner >= 0
        outside = np.stack(
            [(pred_areas[rows] < low) | (pred_areas[rows] > high) for low, high in AREA_RANGES]
        )
        ignored = ~matched & outside[:, None, :]
        if len(cols):
            of_partner = np.take_along_axis(
                np.broadcast_to(ignored_gt[:, None, :], (*partner.shape[:2], len(cols))),
                np.maximum(partner, 0),
                axis=2,
            )
            ignored |= matched & of_partner
        tally.scores.append(scores[rows])
        tally.ranks.append(np.arange(len(rows)))
        tally.matched.append(matched)
        tally.ignored.append(ignored)


def _match(iou: FloatArray, ignored_gt: BoolArray, crowd: BoolArray) -> IntArray:
    """Greedy matching by score at every threshold and area range at once.

    A detection takes the free, not ignored object of highest IoU that reaches the threshold; of
    equal ones the later. Only if there is none may it take an ignored object. Crowds stay free.

    Args:
        iou: (D, G), detections by descending score.
        ignored_gt: (A, G).
        crowd: (G,).

    Returns:
        (A, T, D) position of the matched object, -1 without.
    """
    num_dets, num_gt = iou.shape
    partner = np.full((len(ignored_gt), len(_BARS), num_dets), -1, dtype=np.int64)
    taken = np.zeros((len(ignored_gt), len(_BARS), num_gt), dtype=np.bool_)
    for det in range(num_dets):
        near = np.flatnonzero(iou[det] >= _BARS[0])
        if not len(near):
            continue
        near = near[::-1]  # argmax keeps the first, so the later object wins a tie
        value = iou[det, near]
        free = (value >= _BARS[:, None]) & (~taken[:, :, near] | crowd[near])  # (A, T, near)
        regular = free & ~ignored_gt[:, None, near]
        has_regular = regular.any(axis=2)
        candidates = np.where(has_regular[:, :, None], regular, free)
        best = near[np.where(candidates, value, -1.0).argmax(axis=2)]  # (A, T)
        found = candidates.any(axis=2)
        partner[:, :, det] = np.where(found, best, -1)
        area, bar = np.nonzero(found)
        taken[area, bar, best[found]] = True
    return partner
