"""Quality of single tracklets: J&F and temporal stability, beside and beyond AP.

Definitions, for one ground-truth tracklet and the result that belongs to it. Frames in which
neither has a mask are left out (DAVIS counts them as 1, which flatters objects that are rarely
visible).

- J, region similarity: mean mask IoU over the frames.
- F, contour accuracy (Perazzi et al., DAVIS, CVPR 2016): the contour is every pixel whose right,
  lower or lower-right neighbour differs. Precision is the share of the result's contour that lies
  within ``ceil(0.008 * diagonal)`` pixels (a disk) of the ground truth's contour, recall the other
  way round; F is their harmonic mean, averaged over the frames. 0 if one of the masks is missing.
- J&F: (J + F) / 2.
- Boundary accuracy: mean boundary IoU, that is the IoU of the two boundary regions (pixels within
  ``boundary_distance`` of the outside, see ``boundary``), over the frames in which the ground truth
  is visible.
- Temporal stability: mean over neighbouring frames t, t + 1 in both of which the ground truth is
  visible of ``|b(t + 1) - b(t)|``, with b the boundary IoU. 0 is steady; a mask that flickers
  between perfect and lost has 1. Undefined (nan) without two such frames.

Results belong to ground truth by a one-to-one assignment per video and class that maximises the
summed tube IoU; pairs below ``min_tube_iou`` are dropped. A tracklet without a result has J = F =
boundary accuracy = 0 and no stability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from cocoapi_hq.io import rle
from cocoapi_hq.io.ytvis_json import Source
from cocoapi_hq.tubes.arrays import Float64
from cocoapi_hq.tubes.boundary import boundary_distance
from cocoapi_hq.tubes.mask_lists import TubeVideo, load_tubes

#: Tolerance of F as a share of the frame diagonal (DAVIS).
CONTOUR_TOLERANCE = 0.008

_Mask = npt.NDArray[np.uint8]
_NUMBERS = ("J", "F", "JF", "boundary_iou", "stability")


@dataclass(frozen=True)
class TrackletQuality:
    """Quality of one ground-truth tracklet.

    Attributes:
        video_id: id of the video.
        annotation_id: id of the ground-truth tube.
        category: name of its class.
        result: position of the assigned result in its list, None without one.
        tube_iou: tube IoU with that result, 0 without one.
        num_frames: frames in which the ground truth is visible.
        J: region similarity in [0, 1].
        F: contour accuracy in [0, 1].
        JF: (J + F) / 2.
        boundary_iou: mean boundary IoU in [0, 1].
        stability: mean change of the boundary IoU between neighbours in [0, 1], lower is better.
        boundary_curve: (T,) boundary IoU per frame, nan where the ground truth is not visible.
    """

    video_id: int
    annotation_id: int
    category: str
    result: int | None
    tube_iou: float
    num_frames: int
    J: float
    F: float
    JF: float
    boundary_iou: float
    stability: float
    boundary_curve: tuple[float, ...]


@dataclass(frozen=True)
class QualityResult:
    """All tracklets, in the order of video id and file; crowd tubes and empty ones are left out."""

    tracklets: tuple[TrackletQuality, ...]

    def mean(self, tracklets: Iterable[TrackletQuality] | None = None) -> dict[str, float]:
        """Means over tracklets (of all, by default); nan if there is none.

        Stability is the mean over the tracklets where it is defined.
        """
        chosen = list(self.tracklets if tracklets is None else tracklets)
        means = {}
        for key in _NUMBERS:
            values = [getattr(tracklet, key) for tracklet in chosen]
            values = [value for value in values if not math.isnan(value)]
            means[key] = sum(values) / len(values) if values else math.nan
        return means

    def to_dict(self) -> dict[str, Any]:
        """Means, ``per_class`` means and ``tracklets``; fractions in [0, 1]."""
        names = sorted({tracklet.category for tracklet in self.tracklets})
        content: dict[str, Any] = dict(self.mean())
        content["num_tracklets"] = len(self.tracklets)
        content["num_found"] = sum(tracklet.result is not None for tracklet in self.tracklets)
        content["per_class"] = {
            name: self.mean(t for t in self.tracklets if t.category == name) for name in names
        }
        content["tracklets"] = [asdict(tracklet) for tracklet in self.tracklets]
        return content


def evaluate_tracklets(
    gt: Source,
    results: Source,
    *,
    min_score: float | None = None,
    min_tube_iou: float = 0.0,
    mask_field: str = "auto",
) -> QualityResult:
    """J&F and temporal stability of every ground-truth tracklet of YTVIS JSON.

    Args:
        gt: annotation file, or its loaded content.
        results: result file, or its loaded content.
        min_score: results below this score take no part; None keeps all.
        min_tube_iou: a result below this tube IoU does not belong to a tracklet, in [0, 1].
        mask_field: ground-truth masks, see ``names.MASK_FIELDS``.

    Raises:
        ScoringError: see ``mask_lists.load_tubes``.
    """
    names, videos = load_tubes(gt, results, min_score=min_score, mask_field=mask_field)
    tracklets: list[TrackletQuality] = []
    for video in videos:
        partner = _assign_results(video, min_tube_iou)
        for i, tube in enumerate(video.gt_tubes):
            if video.gt_crowd[i] or not any(tube):
                continue
            found, iou = partner.get(i, (None, 0.0))
            other = [None] * len(tube) if found is None else video.pred_tubes[found]
            region, contour, curve = compare_tubes(tube, other)
            seen = [value for value in curve if not math.isnan(value)]
            tracklets.append(
                TrackletQuality(
                    video_id=video.video_id,
                    annotation_id=video.gt_ids[i],
                    category=names[video.gt_labels[i]],
                    result=None if found is None else video.pred_rows[found],
                    tube_iou=iou,
                    num_frames=len(seen),
                    J=region,
                    F=contour,
                    JF=(region + contour) / 2,
                    boundary_iou=sum(seen) / len(seen),
                    stability=math.nan if found is None else temporal_stability(curve),
                    boundary_curve=tuple(curve),
                )
            )
    return QualityResult(tuple(tracklets))


def tube_ious(gt: Source, results: Source) -> dict[int, float]:
    """``TrackletQuality.tube_iou`` by annotation id, for a fraction of the time of the rest.

    Args:
        gt: as of ``evaluate_tracklets``.
        results: likewise.

    Raises:
        ScoringError: see ``mask_lists.load_tubes``.
    """
    _, videos = load_tubes(gt, results)
    ious: dict[int, float] = {}
    for video in videos:
        partner = _assign_results(video, 0.0)
        for i, tube in enumerate(video.gt_tubes):
            if not video.gt_crowd[i] and any(tube):
                ious[video.gt_ids[i]] = partner.get(i, (None, 0.0))[1]
    return ious


def compare_tubes(
    gt: Sequence[rle.Rle | None], pred: Sequence[rle.Rle | None]
) -> tuple[float, float, list[float]]:
    """Compare two tubes of T frames.

    Args:
        gt: T masks or None.
        pred: T masks or None. A mask of another size than the ground truth's counts as missing.

    Returns:
        J, F (nan if both tubes are empty), and the boundary IoU per frame, nan where gt is None.
    """
    regions: list[float] = []
    contours: list[float] = []
    curve: list[float] = []
    for gt_mask, pred_mask in zip(gt, pred, strict=True):
        if gt_mask is None and pred_mask is None:
            curve.append(math.nan)
            continue
        if gt_mask is None or pred_mask is None or gt_mask["size"] != pred_mask["size"]:
            regions.append(0.0)
            contours.append(0.0)
            curve.append(math.nan if gt_mask is None else 0.0)
            continue
        a, b, offsets = _crop(gt_mask, pred_mask)
        regions.append(_dense_iou(a, b))
        tolerance = contour_tolerance(*gt_mask["size"])
        contours.append(_contour_accuracy(b, a, offsets, gt_mask["size"], tolerance))
        distance = boundary_distance(*gt_mask["size"])
        curve.append(_dense_iou(_boundary(a, distance), _boundary(b, distance)))
    if not regions:
        return math.nan, math.nan, curve
    return sum(regions) / len(regions), sum(contours) / len(contours), curve


def temporal_stability(curve: Sequence[float]) -> float:
    """Mean absolute change between neighbours that are both defined; nan without any.

    Args:
        curve: (T,) boundary IoU in [0, 1], nan where the object is not visible.
    """
    steps = np.abs(np.diff(np.asarray(curve, dtype=np.float64)))
    steps = steps[~np.isnan(steps)]
    return float(steps.mean()) if steps.size else math.nan


def contour_tolerance(h: int, w: int) -> int:
    """Largest distance at which contours still agree: ceil(0.008 * diagonal) pixels."""
    return math.ceil(CONTOUR_TOLERANCE * math.sqrt(h * h + w * w))


def contour_accuracy(pred: rle.Rle, gt: rle.Rle) -> float:
    """F of one frame in [0, 1]; 1 if both masks are empty, 0 if one of them is.

    Args:
        pred: mask of the result.
        gt: mask of the ground truth, of the same size.
    """
    empty = [not coco_mask.area(mask) for mask in (pred, gt)]
    if any(empty):
        return float(all(empty))
    a, b, offsets = _crop(gt, pred)
    return _contour_accuracy(b, a, offsets, gt["size"], contour_tolerance(*gt["size"]))


def _assign_results(video: TubeVideo, min_tube_iou: float) -> dict[int, tuple[int, float]]:
    """GT tube -> (result, tube IoU), one to one within a class, largest total tube IoU."""
    iou = np.zeros((len(video.gt_tubes), len(video.pred_tubes)))
    for i, gt in enumerate(video.gt_tubes):
        for j, pred in enumerate(video.pred_tubes):
            if video.gt_labels[i] == video.pred_labels[j] and not video.gt_crowd[i]:
                iou[i, j] = _tube_iou(gt, pred)
    rows, cols = linear_sum_assignment(iou, maximize=True)
    return {
        i: (j, float(iou[i, j]))
        for i, j in zip(rows.tolist(), cols.tolist(), strict=True)
        if iou[i, j] > 0 and iou[i, j] >= min_tube_iou
    }


def _tube_iou(gt: Sequence[rle.Rle | None], pred: Sequence[rle.Rle | None]) -> float:
    """Summed intersection over summed union; frames with masks of different size vanish."""
    inter = union = 0.0
    for a, b in zip(gt, pred, strict=True):
        if a is not None and b is not None:
            if a["size"] != b["size"]:
                continue
            # With the crowd flag the codec gives intersection over the area of the first mask.
            area_a, area_b = (float(v) for v in coco_mask.area([a, b]))
            shared = float(coco_mask.iou([a], [b], [True])[0, 0]) * area_a
            inter += shared
            union += area_a + area_b - shared
        elif a is not None or b is not None:
            union += float(coco_mask.area(a if a is not None else b))
    return inter / union if union else 0.0


def _crop(gt: rle.Rle, pred: rle.Rle) -> tuple[_Mask, _Mask, tuple[int, int]]:
    """Both masks in the smallest window that holds them and one more pixel, with its corner.

    Returns:
        (h, w) uint8 masks, and (y, x) of the window.
    """
    boxes = np.asarray(coco_mask.toBbox([gt, pred]), dtype=np.int64)  # x, y, w, h
    height, width = gt["size"]
    x0, y0 = (int(v) for v in np.maximum(boxes[:, :2].min(axis=0) - 1, 0))
    x1, y1 = (int(v) for v in (boxes[:, :2] + boxes[:, 2:]).max(axis=0) + 1)
    window = (slice(y0, min(y1, height)), slice(x0, min(x1, width)))
    a, b = (np.ascontiguousarray(coco_mask.decode(mask)[window]) for mask in (gt, pred))
    return a, b, (y0, x0)


def _dense_iou(a: _Mask, b: _Mask) -> float:
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def _boundary(mask: _Mask, distance: int) -> _Mask:
    """Pixels within Chebyshev distance of the outside; what lies beyond the crop is outside."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    eroded = cv2.erode(mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    boundary: _Mask = mask & (1 - eroded).astype(np.uint8)
    return boundary


def _contour(mask: _Mask, offsets: tuple[int, int], size: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Pixels whose right, lower or lower-right neighbour differs; none beyond the frame."""
    height, width = mask.shape
    right, below = offsets[1] + width < size[1], offsets[0] + height < size[0]
    grown = np.zeros((height + 1, width + 1), dtype=np.uint8)
    grown[:height, :width] = mask
    if not right:
        grown[:, width] = grown[:, width - 1]
    if not below:
        grown[height, :] = grown[height - 1, :]
    contour: npt.NDArray[np.bool_] = (
        (mask != grown[:height, 1:]) | (mask != grown[1:, :width]) | (mask != grown[1:, 1:])
    )
    return contour


def _contour_accuracy(
    pred: _Mask, gt: _Mask, offsets: tuple[int, int], size: Sequence[int], tolerance: int
) -> float:
    contours = [_contour(mask, offsets, size) for mask in (pred, gt)]
    near = [_within(contour, tolerance) for contour in contours]
    hits = [int((contours[0] & near[1]).sum()), int((contours[1] & near[0]).sum())]
    sizes = [int(contour.sum()) for contour in contours]
    if not all(sizes):  # a mask that fills the frame has no contour
        return float(not any(sizes))
    precision, recall = hits[0] / sizes[0], hits[1] / sizes[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _within(contour: npt.NDArray[np.bool_], tolerance: int) -> npt.NDArray[np.bool_]:
    """Pixels at most ``tolerance`` pixels (Euclidean, inclusive) from the contour."""
    if not contour.any():
        return np.zeros_like(contour)
    outside = np.where(contour, 0, 1).astype(np.uint8)
    distance: Float64 = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The next larger distance on the grid is sqrt(tolerance^2 + 1).
    near: npt.NDArray[np.bool_] = distance * distance < tolerance * tolerance + 0.5
    return near
