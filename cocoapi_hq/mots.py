"""BDD100K MOTS: MOTSA, MOTSP, IDF1 and counts per class, super-category and over all classes.

Same numbers as Scalabel 071d073 with motmetrics 1.2.5, from plain counters per class and video
that are pooled by addition; there are no event tables.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cocoapi_hq.bitmask_png import list_bitmasks, read_bitmask
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.mask_tables import MaskTable, mask_tables
from cocoapi_hq.mots_config import JsonSource, MotsConfig, config_inside, load_config
from cocoapi_hq.scalabel_io import (
    BoolArray,
    FloatArray,
    FrameMasks,
    IntArray,
    group_by_video,
    load_frames,
)
from cocoapi_hq.ytvis_json import short

logger = logging.getLogger(__name__)

MIN_IOU = 0.5  # a pair with this mask IoU may match
MAX_IGNORED_SHARE = 0.5  # of its own area; an unmatched prediction with more is removed
MOSTLY_TRACKED = 0.8
MOSTLY_LOST = 0.2

#: Names of the numbers of one row, in the order of tables.
ROW_KEYS = ("MOTSA", "MOTSP", "IDF1", "FP", "FN", "IDSw", "MT", "PT", "ML", "FM")


class FramePair(NamedTuple):
    """Ground truth and predictions of one frame, reduced to what scoring needs.

    G ground-truth masks that are not ignored, P predictions that are not flagged.

    Attributes:
        gt_labels: (G,) class positions.
        gt_ids: (G,) ids.
        pred_labels: (P,) class positions.
        pred_ids: (P,) ids.
        iou: (G, P) mask IoU in [0, 1], over all classes; 0 for masks of different size.
        ignored_share: (P,) largest share of the prediction's own area, in [0, 1], that lies in one
            ignored region of the ground truth.
        has_ignored: the frame has an ignored region of any class.
    """

    gt_labels: IntArray
    gt_ids: IntArray
    pred_labels: IntArray
    pred_ids: IntArray
    iou: FloatArray
    ignored_share: FloatArray
    has_ignored: bool


@dataclass
class VideoPairs:
    """The frames of all videos, paired; iterating yields one video after the other.

    Attributes:
        videos: name and a function that yields the frames of the video in order.
        num_overlapping: frames whose predictions were dropped because two of them overlap. Complete
            once all videos were read.
        num_filled: predicted frames that were missing and taken as empty.
    """

    videos: list[tuple[str, Callable[[], Iterator[FramePair]]]]
    num_overlapping: int = 0
    num_filled: int = 0

    def __iter__(self) -> Iterator[tuple[str, Iterator[FramePair]]]:
        for name, frames in self.videos:
            yield name, frames()

    def warn(self) -> None:
        """Say in the log how many frames were dropped or filled."""
        if self.num_overlapping:
            logger.warning(
                "results: two predicted masks overlap in %d frames; all predictions of these "
                "frames are dropped, as BDD100K does. Repair them with "
                "scalabel_io.resolve_overlaps first.",
                self.num_overlapping,
            )
        if self.num_filled:
            logger.warning("results: %d missing frames are taken as empty", self.num_filled)


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


def pair_json(
    gt: JsonSource,
    results: JsonSource,
    config: MotsConfig,
    *,
    fill_missing_frames: bool = False,
) -> VideoPairs:
    """Read both sides, compare their videos and frames, and pair them frame by frame.

    Raises:
        ScoringError: see ``evaluate_mots``.
    """
    gt_videos = group_by_video(load_frames(gt, config, is_gt=True))
    pred_videos = group_by_video(load_frames(results, config, is_gt=False))
    _require_known_videos(list(gt_videos), list(pred_videos))
    pairs = VideoPairs([])
    for name, gt_frames in gt_videos.items():
        pred_frames = pred_videos.get(name)
        aligned: list[FrameMasks | None] = [None] * len(gt_frames)
        if pred_frames is not None:
            by_index = {frame.index: frame for frame in pred_frames}
            _require_known_frames(name, gt_frames, pred_frames)
            aligned = [by_index.get(frame.index) for frame in gt_frames]
            missing = [
                frame for frame, pred in zip(gt_frames, aligned, strict=True) if pred is None
            ]
            if missing and not fill_missing_frames:
                raise ScoringError(
                    f"results: video {name!r} lacks frame {missing[0].name!r} "
                    f"(frameIndex {missing[0].index}) and {len(missing) - 1} more of "
                    f"{len(gt_frames)}; write a frame without labels, or ask for missing frames to "
                    "be filled (--fill-missing-frames)."
                )
            pairs.num_filled += len(missing)
        pairs.videos.append((name, _json_video(pairs, gt_frames, aligned)))
    return pairs


def pair_bitmasks(
    gt_dir: str | os.PathLike[str], results_dir: str | os.PathLike[str], config: MotsConfig
) -> VideoPairs:
    """List both folders and pair their PNG files by name; files are decoded one frame at a time.

    Raises:
        ScoringError: see ``evaluate_mots_bitmask``.
    """
    gt_videos = list_bitmasks(gt_dir, "ground truth")
    pred_videos = list_bitmasks(results_dir, "results")
    _require_known_videos(list(gt_videos), list(pred_videos))
    pairs = VideoPairs([])
    for name, gt_files in gt_videos.items():
        pred_files = {file.name: file for file in pred_videos.get(name, [])}
        if pred_files:
            known = {file.name for file in gt_files}
            extra = sorted(set(pred_files) - known)
            if extra:
                raise ScoringError(
                    f"{results_dir}: video {name!r} has frame {extra[0]!r}, which the ground truth "
                    "does not have; remove it."
                )
            missing = sorted(known - set(pred_files))
            if missing:
                raise ScoringError(
                    f"{results_dir}: video {name!r} lacks frame {missing[0]!r} and "
                    f"{len(missing) - 1} more of {len(gt_files)}; write a PNG that is 0 everywhere."
                )
        aligned = [pred_files.get(file.name) for file in gt_files]
        pairs.videos.append((name, _bitmask_video(gt_files, aligned, config)))
    return pairs


def matched_without_memory(pair: FramePair, allowed: BoolArray) -> BoolArray:
    """(P,) True for predictions that an optimal assignment of this frame alone matches.

    Args:
        pair: the frame.
        allowed: (G, P) pairs of one class with enough IoU.
    """
    matched = np.zeros(allowed.shape[1], dtype=np.bool_)
    rows, cols = np.nonzero(allowed)
    if len(set(rows.tolist())) == len(rows) == len(set(cols.tolist())):
        matched[cols] = True  # nobody competes
        return matched
    for rows, cols in _class_blocks(pair, allowed):
        found = assign(1.0 - pair.iou[np.ix_(rows, cols)], allowed[np.ix_(rows, cols)])
        matched[cols[found[1]]] = True
    return matched


def drop_ignored(pair: FramePair) -> FramePair:
    """Remove unmatched predictions that lie in an ignored region of any class.

    Predictions are matched by an optimal assignment at IoU >= 0.5 without memory of other frames.
    An unmatched one goes if more than half of its own area lies in one ignored region.
    """
    if not pair.has_ignored or not (pair.ignored_share > MAX_IGNORED_SHARE).any():
        return pair
    allowed = allowed_pairs(pair)
    keep = (pair.ignored_share <= MAX_IGNORED_SHARE) | matched_without_memory(pair, allowed)
    return pair._replace(
        pred_labels=pair.pred_labels[keep],
        pred_ids=pair.pred_ids[keep],
        iou=pair.iou[:, keep],
        ignored_share=pair.ignored_share[keep],
    )


def allowed_pairs(pair: FramePair) -> BoolArray:
    """(G, P) True where both are of one class and the IoU is at least 0.5."""
    allowed: BoolArray = pair.gt_labels[:, None] == pair.pred_labels[None, :]
    return allowed & (pair.iou >= MIN_IOU)


def assign(cost: FloatArray, allowed: BoolArray) -> tuple[IntArray, IntArray]:
    """As many allowed pairs as possible; among those, the least total cost.

    Args:
        cost: (N, M), at least 0.
        allowed: (N, M) pairs that may be chosen.

    Returns:
        Rows and columns of the chosen pairs, each (K,).
    """
    rows, cols = np.nonzero(allowed)
    if len(np.unique(rows)) == len(rows) and len(np.unique(cols)) == len(cols):
        return rows, cols
    barrier = 1.0 + 2.0 * min(cost.shape) * float(cost[allowed].max())
    rows, cols = linear_sum_assignment(np.where(allowed, cost, barrier))
    kept = allowed[rows, cols]
    return rows[kept], cols[kept]


def _class_blocks(pair: FramePair, allowed: BoolArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield (GT positions, prediction positions) of every class with an allowed pair."""
    for label in np.unique(pair.gt_labels[allowed.any(axis=1)]):
        yield np.flatnonzero(pair.gt_labels == label), np.flatnonzero(pair.pred_labels == label)


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
        self.counts: dict[int, MotsCounts] = {}
        self.tracks: dict[tuple[int, int], _Track] = {}
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
            self._of(label).num_pred += 1
        for row, key in enumerate(gt_keys):
            track = self.tracks.get(key)
            if track is None:
                track = self.tracks[key] = _Track()
            counts = self._of(key[0])
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

    def _of(self, label: int) -> MotsCounts:
        counts = self.counts.get(label)
        if counts is None:
            counts = self.counts[label] = MotsCounts()
        return counts

    def _match(
        self, pair: FramePair, allowed: BoolArray, gt_keys: Sequence[tuple[int, int]]
    ) -> dict[int, int]:
        """Carry over earlier partners, then assign the rest optimally, class by class."""
        matches: dict[int, int] = {}
        for rows, cols in _class_blocks(pair, allowed):
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


def _json_video(
    pairs: VideoPairs, gt_frames: Sequence[FrameMasks], pred_frames: Sequence[FrameMasks | None]
) -> Callable[[], Iterator[FramePair]]:
    nothing = FrameMasks("", "", 0)
    preds_of = [nothing if frame is None else frame for frame in pred_frames]

    def frames() -> Iterator[FramePair]:
        wrong_size = 0
        tables = mask_tables(gt_frames, preds_of)
        for gt, preds, table in zip(gt_frames, preds_of, tables, strict=True):
            pairs.num_overlapping += table.overlapping
            wrong_size += table.sizes_differ
            yield _pair_frame(gt, preds, table)
        if wrong_size:
            logger.warning(
                "results: in %d frames of video %r masks differ in size from the ground truth; "
                "such masks never match",
                wrong_size,
                gt_frames[0].video,
            )

    return frames


def _pair_frame(gt: FrameMasks, preds: FrameMasks, table: MaskTable) -> FramePair:
    """Split off ignored regions and flagged predictions; overlapping predictions are dropped."""
    ignored = np.array(gt.ignored, dtype=np.bool_)
    kept = ~np.array(preds.ignored, dtype=np.bool_)
    if table.overlapping:
        kept[:] = False
    gt_labels = np.array(gt.labels, dtype=np.int64)
    gt_ids = np.array(gt.track_ids, dtype=np.int64)
    pred_labels = np.array(preds.labels, dtype=np.int64)
    pred_ids = np.array(preds.track_ids, dtype=np.int64)
    iou = table.iou()
    has_ignored = True in gt.ignored
    if not kept.all():
        pred_labels, pred_ids, iou = pred_labels[kept], pred_ids[kept], iou[:, kept]
    if has_ignored:
        shares = table.share_of_prediction()[ignored].max(axis=0)[kept]
        gt_labels, gt_ids, iou = gt_labels[~ignored], gt_ids[~ignored], iou[~ignored]
    else:
        shares = np.zeros(len(pred_ids))
    return FramePair(gt_labels, gt_ids, pred_labels, pred_ids, iou, shares, has_ignored)


def _bitmask_video(
    gt_files: Sequence[Path], pred_files: Sequence[Path | None], config: MotsConfig
) -> Callable[[], Iterator[FramePair]]:
    def frames() -> Iterator[FramePair]:
        for gt_file, pred_file in zip(gt_files, pred_files, strict=True):
            yield _pair_bitmask(gt_file, pred_file, config)

    return frames


def _pair_bitmask(gt_file: Path, pred_file: Path | None, config: MotsConfig) -> FramePair:
    gt = read_bitmask(gt_file, config)
    regular = (gt.labels >= 0) & ~gt.ignored
    regions = (gt.labels >= 0) & gt.ignored
    has_ignored = bool(regions.any())
    if pred_file is None:
        nothing = np.zeros(0, dtype=np.int64)
        iou = np.zeros((int(regular.sum()), 0))
        return FramePair(
            gt.labels[regular],
            gt.track_ids[regular],
            nothing,
            nothing,
            iou,
            np.zeros(0),
            has_ignored,
        )
    preds = read_bitmask(pred_file, config)
    if preds.instance_map.shape != gt.instance_map.shape:
        raise ScoringError(
            f"{pred_file}: the bitmask is {preds.instance_map.shape} (h, w), but {gt_file} is "
            f"{gt.instance_map.shape}; write it at the size of the ground truth."
        )
    kept = (preds.labels >= 0) & ~preds.ignored
    width = len(preds.labels) + 1
    joint = gt.instance_map.astype(np.int64) * width + preds.instance_map  # (H, W)
    shared = np.bincount(joint.ravel(), minlength=(len(gt.labels) + 1) * width)
    inter = shared.reshape(len(gt.labels) + 1, width)[1:, 1:][:, kept]  # (all GT, P)
    areas = preds.areas[kept]
    shares = (inter[regions] / areas).max(axis=0) if has_ignored else np.zeros(len(areas))
    inter = inter[regular]
    union = gt.areas[regular][:, None] + areas[None, :] - inter
    return FramePair(
        gt.labels[regular],
        gt.track_ids[regular],
        preds.labels[kept],
        preds.track_ids[kept],
        inter / union,
        shares,
        has_ignored,
    )


def _require_known_videos(known: Sequence[str], found: Sequence[str]) -> None:
    extra = sorted(set(found) - set(known))
    if extra:
        raise ScoringError(
            f"results: video {short(extra[0])} ({len(extra)} in all) is not in the ground truth, "
            f"which has {len(known)} videos such as {short(known[:3])}; remove it or give its "
            "ground truth."
        )


def _require_known_frames(
    video: str, gt_frames: Sequence[FrameMasks], pred_frames: Sequence[FrameMasks]
) -> None:
    known = {frame.index for frame in gt_frames}
    for frame in pred_frames:
        if frame.index not in known:
            raise ScoringError(
                f"{frame.where}: video {video!r} has frame {frame.name!r} (frameIndex "
                f"{frame.index}), which the ground truth does not have; remove it."
            )
