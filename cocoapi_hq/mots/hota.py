"""HOTA, DetA, AssA and LocA on masks, for MOTS frames and for YTVIS-style tubes.

Source: Luiten et al., HOTA, IJCV 2020, arXiv:2009.07736; matching as in its released code
(TrackEval). Definitions, per class and threshold alpha in 0.05, 0.10, ..., 0.95:

- Matching. S is the mask IoU. The overlap of a ground-truth track g and a predicted track p over
  the video is A(g, p) = c / (n_g + n_p - c), where c sums S_gp / (sum_q S_gq + sum_h S_hp - S_gp)
  over the frames and n counts frames. In every frame the one-to-one assignment with the largest sum
  of A * S is taken once; at alpha its pairs with S >= alpha are the true positives (TP). The paper
  solves the assignment anew for each alpha and puts the number of TP first; the two differ only
  where several predictions overlap one object by alpha or more.
- DetA = TP / (TP + FN + FP).
- AssA = mean over TP of TPA / (TPA + FNA + FPA), where TPA counts the frames in which the same pair
  is a TP and TPA + FNA + FPA = n_g + n_p - TPA.
- HOTA = sqrt(DetA * AssA); LocA = mean S over TP.

All four are means over the alphas, as fractions in [0, 1]. Videos are pooled: TP, FN and FP add up,
AssA and LocA weigh videos by their TP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from cocoapi_hq.io.ytvis_json import Source
from cocoapi_hq.mots.frame_masks import FloatArray, IntArray
from cocoapi_hq.mots.frame_pairs import FramePair, VideoPairs, drop_ignored, pair_json
from cocoapi_hq.mots.mots_config import JsonSource, MotsConfig, config_inside, load_config
from cocoapi_hq.tubes.mask_lists import TubeVideo, load_tubes

ALPHAS = np.arange(1, 20) / 20

#: Names of the numbers of one row.
ROW_KEYS = ("HOTA", "DetA", "AssA", "LocA", "DetRe", "DetPr", "AssRe", "AssPr")


@dataclass
class HotaCounts:
    """Sums of one class in one video, or of any pool of them; (19,) arrays run over ALPHAS.

    Attributes:
        num_gt: ground-truth masks over frames.
        num_pred: predicted masks over frames.
        true_positives: (19,) TP.
        association: (19,) sum of TPA / (TPA + FNA + FPA) over TP.
        association_recall: (19,) sum of TPA / (TPA + FNA) over TP.
        association_precision: (19,) sum of TPA / (TPA + FPA) over TP.
        iou_sum: (19,) sum of S over TP.
    """

    num_gt: int = 0
    num_pred: int = 0
    true_positives: FloatArray = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    association: FloatArray = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    association_recall: FloatArray = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    association_precision: FloatArray = field(default_factory=lambda: np.zeros(len(ALPHAS)))
    iou_sum: FloatArray = field(default_factory=lambda: np.zeros(len(ALPHAS)))

    def add(self, other: HotaCounts) -> None:
        """Add the sums of another class or video."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def curves(self) -> dict[str, FloatArray]:
        """Numbers under ``ROW_KEYS`` against alpha, (19,) each; LocA is nan where TP = 0."""
        tp = self.true_positives
        some = np.maximum(tp, 1.0)
        detection = tp / np.maximum(self.num_gt + self.num_pred - tp, 1.0)
        association = self.association / some
        return {
            "HOTA": np.sqrt(detection * association),
            "DetA": detection,
            "AssA": association,
            "LocA": np.where(tp > 0, self.iou_sum / some, np.nan),
            "DetRe": tp / max(1, self.num_gt),
            "DetPr": tp / max(1, self.num_pred),
            "AssRe": self.association_recall / some,
            "AssPr": self.association_precision / some,
        }

    def to_row(self) -> dict[str, float]:
        """Means over the alphas, as fractions; all nan without objects and predictions.

        LocA is the mean over the alphas that have a TP, nan if none has.
        """
        if not self.num_gt and not self.num_pred:
            return dict.fromkeys(ROW_KEYS, math.nan)
        row = {}
        for key, curve in self.curves().items():
            defined = curve[~np.isnan(curve)]
            row[key] = float(defined.mean()) if defined.size else math.nan
        return row


@dataclass(frozen=True)
class HotaResult:
    """HOTA per class and combined.

    Attributes:
        classes: names in order.
        counts: class -> sums over all videos.
        num_overlapping: MOTS frames whose predictions were dropped for overlap.
    """

    classes: tuple[str, ...]
    counts: Mapping[str, HotaCounts]
    num_overlapping: int = 0

    def rows(self) -> dict[str, dict[str, float]]:
        """Row name -> numbers as fractions: classes, AVERAGE, OVERALL.

        AVERAGE is the mean over the classes that have ground truth (nan entries left out). OVERALL
        pools the classes: TP, FN and FP add up, AssA and LocA weigh classes by their TP.
        """
        rows = {name: self.counts[name].to_row() for name in self.classes}
        scored = [rows[name] for name in self.classes if self.counts[name].num_gt]
        average = {}
        for key in ROW_KEYS:
            values = [row[key] for row in scored if not math.isnan(row[key])]
            average[key] = sum(values) / len(values) if values else math.nan
        pooled = HotaCounts()
        for counts in self.counts.values():
            pooled.add(counts)
        rows["AVERAGE"] = average
        rows["OVERALL"] = pooled.to_row()
        return rows

    def to_dict(self) -> dict[str, Any]:
        """OVERALL numbers and ``per_class`` (the rows); fractions in [0, 1], nan if undefined."""
        rows = self.rows()
        content: dict[str, Any] = dict(rows["OVERALL"])
        content["per_class"] = rows
        return content


def evaluate_hota(
    gt: JsonSource,
    results: JsonSource,
    config: MotsConfig | JsonSource | None = None,
    *,
    fill_missing_frames: bool = False,
) -> HotaResult:
    """HOTA on MOTS frames in Scalabel JSON.

    Files, ignored regions and the overlap rule are those of ``clear_mot.evaluate_mots``: unmatched
    predictions in an ignored region go first, at IoU 0.5, and frames with overlapping predictions
    are emptied.

    Args:
        gt: file, folder of files, or loaded content with the ground truth.
        results: the same with the predictions.
        config: classes, see ``mots_config.load_config``.
        fill_missing_frames: take missing predicted frames as empty instead of refusing.

    Raises:
        ScoringError: see ``clear_mot.evaluate_mots``.
    """
    classes = load_config(config if config is not None else config_inside(gt))
    pairs = pair_json(gt, results, classes, fill_missing_frames=fill_missing_frames)
    return evaluate_pairs(pairs, classes.classes)


def evaluate_pairs(pairs: VideoPairs, classes: Sequence[str]) -> HotaResult:
    """HOTA of videos that are already paired (:mod:`frame_pairs`), from JSON or from bitmasks.

    Args:
        pairs: the videos.
        classes: class names by position.
    """
    totals = {name: HotaCounts() for name in classes}
    for _, frames in pairs:
        for label, counts in video_counts(drop_ignored(pair) for pair in frames).items():
            totals[classes[label]].add(counts)
    pairs.warn()
    return HotaResult(tuple(classes), totals, pairs.num_overlapping)


def evaluate_hota_tubes(
    gt: Source, results: Source, *, min_score: float | None = None, mask_field: str = "auto"
) -> HotaResult:
    """HOTA on tubes in the JSON format of YouTube-VIS.

    Every result is one predicted track, whatever its score, so a file that holds ten guesses per
    video needs ``min_score``: HOTA has no ranking. Crowd tubes are ignored regions, as in MOTS.

    Args:
        gt: annotation file, or its loaded content.
        results: result file, or its loaded content.
        min_score: results below this score are left out; None keeps all.
        mask_field: ground-truth masks, see ``names.MASK_FIELDS``.

    Raises:
        ScoringError: see ``load_tubes``.
    """
    names, videos = load_tubes(gt, results, min_score=min_score, mask_field=mask_field)
    totals = {name: HotaCounts() for name in names}
    for video in videos:
        for label, counts in video_counts(map(drop_ignored, _tube_frames(video))).items():
            totals[names[label]].add(counts)
    return HotaResult(names, totals)


def video_counts(frames: Iterable[FramePair]) -> dict[int, HotaCounts]:
    """Class position -> HOTA sums of one video."""
    tallies: dict[int, _VideoTally] = {}
    for pair in frames:
        for label in np.union1d(pair.gt_labels, pair.pred_labels).tolist():
            rows = np.flatnonzero(pair.gt_labels == label)
            cols = np.flatnonzero(pair.pred_labels == label)
            tallies.setdefault(label, _VideoTally()).add(
                pair.gt_ids[rows], pair.pred_ids[cols], pair.iou[np.ix_(rows, cols)]
            )
    return {label: tally.finish() for label, tally in tallies.items()}


class _VideoTally:
    """Frames of one class in one video, kept until the overlap of whole tracks is known."""

    def __init__(self) -> None:
        self.gt_frames: dict[int, int] = {}  # id -> number of frames
        self.pred_frames: dict[int, int] = {}
        self.shared: dict[tuple[int, int], float] = {}  # (GT id, predicted id) -> c
        self.frames: list[tuple[list[int], list[int], FloatArray]] = []

    def add(self, gt_ids: IntArray, pred_ids: IntArray, iou: FloatArray) -> None:
        """Add the masks of one frame; iou is (G, P)."""
        gt_list, pred_list = gt_ids.tolist(), pred_ids.tolist()
        for identity in gt_list:
            self.gt_frames[identity] = self.gt_frames.get(identity, 0) + 1
        for identity in pred_list:
            self.pred_frames[identity] = self.pred_frames.get(identity, 0) + 1
        rows, cols = np.nonzero(iou)
        if not len(rows):
            return
        total = iou.sum(axis=1)[rows] + iou.sum(axis=0)[cols] - iou[rows, cols]
        for row, col, share in zip(
            rows.tolist(), cols.tolist(), (iou[rows, cols] / total).tolist(), strict=True
        ):
            key = (gt_list[row], pred_list[col])
            self.shared[key] = self.shared.get(key, 0.0) + share
        self.frames.append((gt_list, pred_list, iou))

    def finish(self) -> HotaCounts:
        """Assign every frame and sum up."""
        counts = HotaCounts(sum(self.gt_frames.values()), sum(self.pred_frames.values()))
        gt_place = {identity: i for i, identity in enumerate(self.gt_frames)}
        pred_place = {identity: i for i, identity in enumerate(self.pred_frames)}
        overlap = np.zeros((len(gt_place), len(pred_place)))
        for (g, p), c in self.shared.items():
            overlap[gt_place[g], pred_place[p]] = c / (self.gt_frames[g] + self.pred_frames[p] - c)
        pairs: list[IntArray] = []
        similarity: list[FloatArray] = []
        for gt_list, pred_list, iou in self.frames:
            rows = np.array([gt_place[identity] for identity in gt_list])
            cols = np.array([pred_place[identity] for identity in pred_list])
            chosen = _assign(overlap[np.ix_(rows, cols)] * iou)
            pairs.append(rows[chosen[0]] * len(pred_place) + cols[chosen[1]])
            similarity.append(iou[chosen])
        if not pairs:
            return counts
        pair, iou_of = np.concatenate(pairs), np.concatenate(similarity)
        frames_gt = np.array(list(self.gt_frames.values()))[pair // len(pred_place)]
        frames_pred = np.array(list(self.pred_frames.values()))[pair % len(pred_place)]
        for k, alpha in enumerate(ALPHAS):
            hit = iou_of >= alpha
            tpa = np.bincount(pair[hit], minlength=overlap.size)[pair[hit]]
            counts.true_positives[k] = hit.sum()
            counts.iou_sum[k] = iou_of[hit].sum()
            counts.association[k] = (tpa / (frames_gt[hit] + frames_pred[hit] - tpa)).sum()
            counts.association_recall[k] = (tpa / frames_gt[hit]).sum()
            counts.association_precision[k] = (tpa / frames_pred[hit]).sum()
        return counts


def _assign(score: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs of the one-to-one assignment with the largest total; pairs worth 0 are left out."""
    rows, cols = np.nonzero(score)
    if len(set(rows.tolist())) < len(rows) or len(set(cols.tolist())) < len(cols):
        rows, cols = linear_sum_assignment(score, maximize=True)
        worth = score[rows, cols] > 0
        rows, cols = rows[worth], cols[worth]
    return rows, cols


def _tube_frames(video: TubeVideo) -> Iterator[FramePair]:
    """The frames of a video as pairs; a track's id is its position."""
    gt_labels = np.array(video.gt_labels, dtype=np.int64)
    pred_labels = np.array(video.pred_labels, dtype=np.int64)
    crowd = np.array(video.gt_crowd, dtype=np.bool_)
    for t in range(video.num_frames):
        gt_here = np.array([i for i, tube in enumerate(video.gt_tubes) if tube[t]], dtype=np.int64)
        here = np.array([i for i, tube in enumerate(video.pred_tubes) if tube[t]], dtype=np.int64)
        crowd_here = crowd[gt_here]
        table = np.zeros((len(here), len(gt_here)))
        if table.size:
            table = coco_mask.iou(
                [video.pred_tubes[i][t] for i in here.tolist()],
                [video.gt_tubes[i][t] for i in gt_here.tolist()],
                crowd_here.tolist(),
            )
            table = np.maximum(table, 0.0)  # -1 marks masks of different size
        in_crowd = table[:, crowd_here]
        shares = in_crowd.max(axis=1) if in_crowd.size else np.zeros(len(here))
        regular = gt_here[~crowd_here]
        yield FramePair(
            gt_labels[regular],
            regular,
            pred_labels[here],
            here,
            np.ascontiguousarray(table[:, ~crowd_here].T),
            shares,
            bool(crowd_here.any()),
        )
