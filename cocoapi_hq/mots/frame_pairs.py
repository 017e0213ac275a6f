"""Ground truth and predictions of MOTS, paired frame by frame, and the matching of one frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.fields import short
from cocoapi_hq.mots.bitmask_png import list_bitmasks, read_bitmask
from cocoapi_hq.mots.frame_masks import BoolArray, FloatArray, FrameMasks, IntArray, group_by_video
from cocoapi_hq.mots.mask_tables import MaskTable, mask_tables
from cocoapi_hq.mots.mots_config import JsonSource, MotsConfig
from cocoapi_hq.mots.scalabel_io import load_frames

logger = logging.getLogger(__name__)

MIN_IOU = 0.5  # a pair with this mask IoU may match
MAX_IGNORED_SHARE = 0.5  # of its own area; an unmatched prediction with more is removed


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
                "frame_masks.resolve_overlaps first.",
                self.num_overlapping,
            )
        if self.num_filled:
            logger.warning("results: %d missing frames are taken as empty", self.num_filled)


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
        pairs.videos.append((name, partial(_json_frames, pairs, gt_frames, aligned)))
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
        frames = partial(_pair_bitmask, config=config)
        pairs.videos.append((name, partial(map, frames, gt_files, aligned)))
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
    for rows, cols in class_blocks(pair, allowed):
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


def class_blocks(pair: FramePair, allowed: BoolArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield (GT positions, prediction positions) of every class with an allowed pair."""
    for label in np.unique(pair.gt_labels[allowed.any(axis=1)]):
        yield np.flatnonzero(pair.gt_labels == label), np.flatnonzero(pair.pred_labels == label)


def _json_frames(
    pairs: VideoPairs, gt_frames: Sequence[FrameMasks], pred_frames: Sequence[FrameMasks | None]
) -> Iterator[FramePair]:
    empty = FrameMasks("", "", 0)
    preds_of = [empty if frame is None else frame for frame in pred_frames]
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
