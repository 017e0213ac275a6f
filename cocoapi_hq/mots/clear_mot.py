"""BDD100K MOTS: MOTSA, MOTSP, IDF1 and counts per class, super-category and over all classes.

Same numbers as Scalabel 071d073 with motmetrics 1.2.5, from plain counters per class and video
that are pooled by addition; there are no event tables.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from cocoapi_hq.mots.frame_masks import BoolArray
from cocoapi_hq.mots.frame_pairs import (
    FramePair,
    VideoPairs,
    allowed_pairs,
    assign,
    class_blocks,
    drop_ignored,
    pair_bitmasks,
    pair_json,
)
from cocoapi_hq.mots.mots_config import JsonSource, MotsConfig, config_inside, load_config

MOSTLY_TRACKED = 0.8
MOSTLY_LOST = 0.2

#: Names of the numbers of one row, in the order of tables.
ROW_KEYS = ("MOTSA", "MOTSP", "IDF1", "FP", "FN", "IDSw", "MT", "PT", "ML", "FM")


@dataclass
class MotsCounts:
    """Counters of one class in one video, or of any pool of them; pools are sums.

    Attributes:
        num_gt: ground-truth masks over frames.
        num_pred: predicted masks that were not ignored.
        num_matches: matched masks, switches included.
        false_positives: FP.
        misses: FN.
        switches: identity switches.
        mostly_tracked: tracks matched in at least 80% of their frames.
        partially_tracked: at least 20% and less than 80%.
        mostly_lost: less than 20%.
        fragments: matched-then-missed steps between a track's first and last match.
        id_true_positives: IDTP.
        iou_sum: sum of the mask IoU over matches.
    """

    num_gt: int = 0
    num_pred: int = 0
    num_matches: int = 0
    false_positives: int = 0
    misses: int = 0
    switches: int = 0
    mostly_tracked: int = 0
    partially_tracked: int = 0
    mostly_lost: int = 0
    fragments: int = 0
    id_true_positives: int = 0
    iou_sum: float = 0.0

    def add(self, other: MotsCounts) -> None:
        """Add the counters of another class or video."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def to_row(self) -> dict[str, float]:
        """Numbers under ``ROW_KEYS``: percent and counts.

        MOTSA is nan without objects and predictions, -inf without objects; MOTSP is nan without
        matches; IDF1 is nan without objects and predictions.
        """
        errors = self.misses + self.false_positives + self.switches
        if self.num_gt:
            accuracy = 100.0 * (1.0 - errors / self.num_gt)
        else:
            accuracy = -math.inf if errors else math.nan
        total = self.num_gt + self.num_pred
        return {
            "MOTSA": accuracy,
            "MOTSP": 100.0 * self.iou_sum / self.num_matches if self.num_matches else math.nan,
            "IDF1": 100.0 * 2 * self.id_true_positives / total if total else math.nan,
            "FP": self.false_positives,
            "FN": self.misses,
            "IDSw": self.switches,
            "MT": self.mostly_tracked,
            "PT": self.partially_tracked,
            "ML": self.mostly_lost,
            "FM": self.fragments,
        }


@dataclass(frozen=True)
class MotsResult:
    """BDD100K MOTS numbers.

    Attributes:
        config: the classes that were scored.
        counts: leaf class -> counters over all videos.
        per_video: video -> leaf class -> counters; classes without masks are left out.
        num_overlapping: frames whose predictions were dropped for overlap.
        num_filled: missing predicted frames taken as empty.
    """

    config: MotsConfig
    counts: Mapping[str, MotsCounts]
    per_video: Mapping[str, Mapping[str, MotsCounts]] = field(default_factory=dict)
    num_overlapping: int = 0
    num_filled: int = 0

    def pool(self, classes: Sequence[str]) -> MotsCounts:
        """Summed counters of some leaf classes."""
        total = MotsCounts()
        for name in classes:
            total.add(self.counts[name])
        return total

    def rows(self) -> dict[str, dict[str, float]]:
        """Row name -> numbers: leaf classes, super-categories, AVERAGE, OVERALL.

        A super-category and OVERALL follow from pooled counts. AVERAGE is the mean over all leaf
        classes with nan and infinities as 0; its counts are sums.
        """
        rows = {name: self.counts[name].to_row() for name in self.config.classes}
        leaves = list(rows.values())
        for name, members in self.config.super_classes.items():
            rows[name] = self.pool(members).to_row()
        overall = self.pool(self.config.classes).to_row()
        average = dict(overall)
        for key in ("MOTSA", "MOTSP", "IDF1"):
            finite = [row[key] if math.isfinite(row[key]) else 0.0 for row in leaves]
            average[key] = sum(finite) / len(finite)
        rows["AVERAGE"] = average
        rows["OVERALL"] = overall
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Table 7's numbers and ``per_class`` (the rows); percent and counts, nan if undefined."""
        rows = self.rows()
        average = rows["AVERAGE"]
        summary: dict[str, Any] = {
            "mMOTSA": average["MOTSA"],
            "mMOTSP": average["MOTSP"],
            "mIDF1": average["IDF1"],
        }
        for key in ("IDSw", "FP", "FN", "MT", "PT", "ML", "FM"):
            summary[key] = average[key]
        summary["per_class"] = rows
        return summary


def evaluate_mots(
    gt: JsonSource,
    results: JsonSource,
    config: MotsConfig | JsonSource | None = None,
    *,
    fill_missing_frames: bool = False,
) -> MotsResult:
    """Score tracked masks in Scalabel JSON.

    Args:
        gt: file, folder of files, or loaded content with the ground truth.
        results: the same with the predictions. Every video that is present must have exactly the
            frames of its ground truth; a video that is absent counts as empty.
        config: classes, see ``mots_config.load_config``. None: the configuration inside the ground
            truth, else BDD100K's classes.
        fill_missing_frames: take predicted frames that are missing as empty instead of refusing.

    Raises:
        ScoringError: any defect in the files; a predicted video or frame that the ground truth does
            not have; a missing frame.
    """
    classes = load_config(config if config is not None else config_inside(gt))
    pairs = pair_json(gt, results, classes, fill_missing_frames=fill_missing_frames)
    return _evaluate(pairs, classes)


def evaluate_mots_bitmask(
    gt_dir: str | os.PathLike[str],
    results_dir: str | os.PathLike[str],
    config: MotsConfig | JsonSource | None = None,
) -> MotsResult:
    """Score tracked masks in bitmask PNG folders; the numbers equal those of ``evaluate_mots``.

    Args:
        gt_dir: one sub-folder of PNG files per video.
        results_dir: the same with the predictions. A video that is absent counts as empty.
        config: classes, see ``mots_config.load_config``.

    Raises:
        ScoringError: a folder or PNG that is missing, unreadable or of the wrong mode; a predicted
            video or frame that the ground truth does not have; two sizes in one frame.
    """
    classes = load_config(config)
    return _evaluate(pair_bitmasks(gt_dir, results_dir, classes), classes)


def _evaluate(pairs: VideoPairs, config: MotsConfig) -> MotsResult:
    totals = {name: MotsCounts() for name in config.classes}
    per_video: dict[str, dict[str, MotsCounts]] = {}
    for video, frames in pairs:
        accumulator = _VideoAccumulator()
        for pair in frames:
            accumulator.update(drop_ignored(pair))
        per_video[video] = {
            config.classes[label]: counts for label, counts in accumulator.finish().items()
        }
        for name, counts in per_video[video].items():
            totals[name].add(counts)
    pairs.warn()
    return MotsResult(config, totals, per_video, pairs.num_overlapping, pairs.num_filled)


@dataclass(slots=True)
class _Track:
    """State of one ground-truth object of one class."""

    num_frames: int = 0
    num_matched: int = 0
    partner: int | None = None  # the prediction it was last matched with, never forgotten
    was_matched: bool = False  # in its last frame
    open_steps: int = 0  # matched-then-missed steps that no later match has confirmed yet
    fragments: int = 0


class _VideoAccumulator:
    """Counters of one video for all classes at once; classes never meet in an allowed pair."""

    def __init__(self) -> None:
        self.counts: defaultdict[int, MotsCounts] = defaultdict(MotsCounts)
        self.tracks: defaultdict[tuple[int, int], _Track] = defaultdict(_Track)
        self.pair_frames: dict[tuple[int, int, int], int] = {}  # (class, GT id, predicted id)

    def update(self, pair: FramePair) -> None:
        """Add the next frame."""
        allowed = allowed_pairs(pair)
        rows, cols = (index.tolist() for index in np.nonzero(allowed))
        gt_keys = list(zip(pair.gt_labels.tolist(), pair.gt_ids.tolist(), strict=True))
        pred_ids = pair.pred_ids.tolist()
        for row, col in zip(rows, cols, strict=True):
            both = (*gt_keys[row], pred_ids[col])
            self.pair_frames[both] = self.pair_frames.get(both, 0) + 1
        if len(set(rows)) < len(rows) or len(set(cols)) < len(cols):
            matches = self._match(pair, allowed, gt_keys)
        else:
            matches = dict(zip(rows, cols, strict=True))
        for label in pair.pred_labels.tolist():
            self.counts[label].num_pred += 1
        for row, key in enumerate(gt_keys):
            track, counts = self.tracks[key], self.counts[key[0]]
            counts.num_gt += 1
            track.num_frames += 1
            matched = matches.get(row)
            if matched is None:
                if track.was_matched:
                    track.open_steps += 1
                    track.was_matched = False
                continue
            partner = pred_ids[matched]
            if track.partner is not None and track.partner != partner:
                counts.switches += 1
            track.partner = partner
            track.was_matched = True
            track.num_matched += 1
            track.fragments += track.open_steps
            track.open_steps = 0
            counts.num_matches += 1
            counts.iou_sum += float(pair.iou[row, matched])

    def finish(self) -> dict[int, MotsCounts]:
        """Class position -> counters of the video."""
        for (label, _), track in self.tracks.items():
            counts = self.counts[label]
            share = track.num_matched / track.num_frames
            counts.mostly_tracked += share >= MOSTLY_TRACKED
            counts.mostly_lost += share < MOSTLY_LOST
            counts.partially_tracked += MOSTLY_LOST <= share < MOSTLY_TRACKED
            counts.fragments += track.fragments
        for label, counts in self.counts.items():
            counts.misses = counts.num_gt - counts.num_matches
            counts.false_positives = counts.num_pred - counts.num_matches
            counts.id_true_positives = self._id_true_positives(label)
        return self.counts

    def _match(
        self, pair: FramePair, allowed: BoolArray, gt_keys: Sequence[tuple[int, int]]
    ) -> dict[int, int]:
        """Carry over earlier partners, then assign the rest optimally, class by class."""
        matches: dict[int, int] = {}
        for rows, cols in class_blocks(pair, allowed):
            block = allowed[np.ix_(rows, cols)].copy()
            ids = pair.pred_ids[cols]
            is_free = np.ones(len(cols), dtype=np.bool_)
            for i, row in enumerate(rows.tolist()):
                track = self.tracks.get(gt_keys[row])
                if track is None or track.partner is None:
                    continue
                free = np.flatnonzero((ids == track.partner) & is_free)
                if len(free) and block[i, free[0]]:
                    is_free[free[0]] = False
                    matches[row] = int(cols[free[0]])
                    block[i, :] = False
                    block[:, free[0]] = False
            if block.any():
                found = assign(1.0 - pair.iou[np.ix_(rows, cols)], block)
                matches.update(zip(rows[found[0]].tolist(), cols[found[1]].tolist(), strict=True))
        return matches

    def _id_true_positives(self, label: int) -> int:
        """Frames covered by the best one-to-one assignment of predicted to GT ids."""
        entries = [(g, p, n) for (c, g, p), n in self.pair_frames.items() if c == label]
        gt_ids = {g: i for i, g in enumerate(sorted({g for g, _, _ in entries}))}
        pred_ids = {p: i for i, p in enumerate(sorted({p for _, p, _ in entries}))}
        if len(gt_ids) == len(entries) == len(pred_ids):
            return sum(n for _, _, n in entries)
        shared = np.zeros((len(gt_ids), len(pred_ids)), dtype=np.int64)
        for g, p, n in entries:
            shared[gt_ids[g], pred_ids[p]] = n
        rows, cols = linear_sum_assignment(shared, maximize=True)
        return int(shared[rows, cols].sum())
