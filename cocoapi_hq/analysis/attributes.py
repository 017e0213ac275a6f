"""AP by what an object is like: its size, length, speed and occlusion.

Every attribute cuts the ground truth into a few groups; tubes outside a group are ignored while it
is scored, as with the area ranges of the protocol. Detections have a size, so those outside a size
group are ignored too; they have no other attribute, so false positives count fully elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cocoapi_hq.io.ytvis_json import Source, open_ground_truth, open_list
from cocoapi_hq.tubes import tube_ap
from cocoapi_hq.tubes.arrays import Float64, VideoTubes
from cocoapi_hq.tubes.protocol import TubeProtocol, TubeRange
from cocoapi_hq.tubes.shards import Job, map_videos, tasks_of


@dataclass(frozen=True)
class Group:
    """One group of one attribute: low <= value <= high (the last group) or < high (the others)."""

    attribute: str
    label: str
    low: float
    high: float


_INF = float("inf")
#: The groups. size: average area in pixels (the protocol's ranges). length: frames that show the
#: object. speed: IoU of the tube with itself one frame later (motion IoU, bounds of
#: arXiv:1703.10025). occlusion: OVIS's score when annotated, else the mean share of the box that
#: the box of another object covers most.
GROUPS: tuple[Group, ...] = (
    Group("size", "small", 0.0, 128.0**2),
    Group("size", "medium", 128.0**2, 256.0**2),
    Group("size", "large", 256.0**2, _INF),
    Group("length", "up to 10", 0, 11),
    Group("length", "11 to 30", 11, 31),
    Group("length", "over 30", 31, _INF),
    Group("speed", "slow", 0.9, _INF),
    Group("speed", "medium", 0.7, 0.9),
    Group("speed", "fast", 0.0, 0.7),
    Group("occlusion", "none", 0.0, 0.05),
    Group("occlusion", "partial", 0.05, 0.4),
    Group("occlusion", "heavy", 0.4, _INF),
)


@dataclass
class AttributeScores:
    """AP of one group.

    Attributes:
        group: the group.
        ap: AP over all thresholds, as a fraction; -1 when no tube belongs to it.
        tubes: ground-truth tubes in it, over all categories.
    """

    group: Group
    ap: float
    tubes: int


def visible_frames(tubes: VideoTubes) -> Float64:
    """(G,) frames in which every ground-truth tube has pixels."""
    shown = np.concatenate([[0], np.cumsum(tubes.masks.areas > 0)])
    frames: Float64 = (shown[tubes.gt.first + tubes.gt.frames] - shown[tubes.gt.first]).astype(
        np.float64
    )
    return frames


def motion_iou(tubes: VideoTubes) -> Float64:
    """(G,) IoU of every tube with itself one frame later; 1 for tubes of one frame."""
    gt = tubes.gt
    frames = np.maximum(gt.frames - 1, 0).astype(np.int32)
    inter, union, _ = tubes.masks.tube_sums(gt.first, gt.first + 1, frames)
    iou: Float64 = np.divide(inter, union, out=np.ones(len(gt)), where=union > 0)
    return iou


def box_occlusion(tubes: VideoTubes) -> Float64:
    """(G,) mean over visible frames of the share of the box that another object's box covers."""
    gt = tubes.gt
    out = np.zeros(len(gt))
    if len(gt) < 2:
        return out
    frames = int(gt.frames.min())
    boxes = tubes.masks.boxes[gt.first[:, None] + np.arange(frames)].astype(np.float64)
    size = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])  # (G, T)
    for g in range(len(gt)):
        low = np.maximum(boxes[g, :, :2], boxes[..., :2])
        high = np.minimum(boxes[g, :, 2:], boxes[..., 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=-1)  # (G, T)
        shared[g] = 0
        visible = size[g] > 0
        if visible.any():
            out[g] = float((shared.max(axis=0)[visible] / size[g][visible]).mean())
    return out


def attribute_values(tubes: VideoTubes) -> dict[str, Float64]:
    """Attribute -> (G,) values of the ground-truth tubes of a video."""
    occlusion = tubes.gt.occlusion if tubes.gt.occlusion.any() else box_occlusion(tubes)
    return {
        "size": tubes.gt.area,
        "length": visible_frames(tubes),
        "speed": motion_iou(tubes),
        "occlusion": occlusion,
    }


def score_groups(tubes: VideoTubes, protocol: TubeProtocol, metric: str) -> list[tube_ap.Cell]:
    """Match one video with the groups in place of the area ranges.

    Args:
        tubes: the video.
        protocol: the rules; its ranges are :data:`GROUPS`.
        metric: the tube metric.

    Returns:
        The cells of the video.
    """
    values = attribute_values(tubes)
    row = {int(key): i for i, key in enumerate(tubes.gt.keys)}
    crowd = tubes.gt.crowd
    cells = tube_ap.score_video(tubes, protocol, (metric,)).cells[metric]
    for cell in cells:
        columns = np.array([row[int(key)] for key in cell.annotations], dtype=np.int64)
        outside = [_outside(group, values[group.attribute][columns]) for group in GROUPS]
        ignored = np.array(outside).reshape(len(GROUPS), len(columns)) | crowd[columns]
        cell.gt_ignored = ignored
        cell.matched = tube_ap.match(cell.iou, ignored, crowd[columns], np.array(protocol.bars))
        dt_outside = np.array(
            [
                _outside(group, cell.dt_area)
                if group.attribute == "size"
                else np.zeros(len(cell.dt_area), dtype=np.bool_)
                for group in GROUPS
            ]
        )
        cell.ignored = tube_ap.ignored_detections(cell.matched, ignored, dt_outside)
    return cells


def _outside(group: Group, values: Float64) -> Any:
    # Both ends of a size range belong to it, as in the protocol.
    above = values > group.high if group.attribute == "size" else values >= group.high
    return (values < group.low) | above


def score_attributes(
    gt: Source, results: Source, metric: str, *, protocol: TubeProtocol, jobs: int = 1
) -> list[AttributeScores]:
    """AP of every group.

    Args:
        gt: annotation file (path or parsed).
        results: result file (path or parsed).
        metric: ``tube_mask`` or ``tube_boundary``.
        protocol: the rules; its ranges are replaced by the groups.
        jobs: processes.

    Returns:
        One entry per group, in the order of :data:`GROUPS`.

    Raises:
        ScoringError: bad input.
    """
    truth = open_ground_truth(gt)
    ranges = tuple(
        TubeRange(g.label, occlusion=(0.0, 1.0) if protocol.needs_occlusion else None)
        for g in GROUPS
    )
    rules = replace(protocol, ranges=ranges, max_dets=protocol.max_dets[-1:])
    job = Job(score_groups, truth.categories, rules, {"metric": metric})
    tasks = tasks_of(truth, open_list(results, "results"))
    cells = [cell for video in map_videos(job, tasks, jobs) for cell in video]
    curves = tube_ap.accumulate(cells, list(truth.categories), rules)
    return [
        AttributeScores(
            group,
            tube_ap.mean_defined(curves.precision[:, :, :, r, -1]),
            int(curves.positives[:, r].sum()),
        )
        for r, group in enumerate(GROUPS)
    ]
