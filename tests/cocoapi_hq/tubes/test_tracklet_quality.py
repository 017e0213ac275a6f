"""J&F and temporal stability: small values by hand and a slow reference for the contours."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoapi_hq.io import rle
from cocoapi_hq.tubes import tracklet_quality
from cocoapi_hq.tubes.boundary import boundary_distance
from tests.cocoapi_hq.mots.test_hota import tubes
from tests.cocoapi_hq.reference_mots import box, iou

A, B = box(0, 0, 8, 4), box(10, 0, 18, 4)
HALF = box(0, 0, 4, 4)


def coded(*masks: np.ndarray | None) -> list:
    return [None if mask is None else rle.encode(mask) for mask in masks]


def contour_pixels(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels whose right, lower or lower-right neighbour in the frame differs."""
    h, w = mask.shape
    found = set()
    for y, x in itertools.product(range(h), range(w)):
        for dy, dx in ((0, 1), (1, 0), (1, 1)):
            # DAVIS repeats the last row and column instead of looking beyond the frame.
            if mask[min(y + dy, h - 1), min(x + dx, w - 1)] != mask[y, x]:
                found.add((y, x))
    return found


def slow_contour_accuracy(pred: np.ndarray, gt: np.ndarray) -> float:
    a, b = contour_pixels(pred), contour_pixels(gt)
    reach = math.ceil(0.008 * math.hypot(*gt.shape)) ** 2

    def share(left: set, right: set) -> float:
        near = sum(any((y - v) ** 2 + (x - u) ** 2 <= reach for v, u in right) for y, x in left)
        return near / len(left)

    if not a or not b:
        return float(not a and not b)
    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_contour_accuracy_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w = (int(v) for v in rng.integers(6, 40, 2))

    def blob() -> np.ndarray:
        noise = cv2.GaussianBlur(rng.random((h, w)), (0, 0), 2)
        return noise > np.quantile(noise, rng.uniform(0.3, 0.95))

    gt = blob()
    pred = blob() if rng.random() < 0.3 else np.roll(gt, int(rng.integers(-3, 4)), axis=1)
    if not gt.any() or not pred.any():
        return
    found = tracklet_quality.contour_accuracy(rle.encode(pred), rle.encode(gt))
    assert found == pytest.approx(slow_contour_accuracy(pred, gt), abs=1e-12)


def test_tolerance_is_a_disk() -> None:
    # 300 x 400: tolerance ceil(4.0) = 4; a 3-4-5 step diagonal is out, a step of 4 is in.
    assert tracklet_quality.contour_tolerance(300, 400) == 4
    point = np.zeros((300, 400), dtype=bool)
    point[100, 100] = True
    for dy, dx, want in ((4, 0, 1.0), (5, 0, 0.8571428571428571), (0, 8, 0.0)):
        moved = np.roll(point, (dy, dx), axis=(0, 1))
        found = tracklet_quality.contour_accuracy(rle.encode(moved), rle.encode(point))
        assert found == pytest.approx(slow_contour_accuracy(moved, point))
        assert (found == 1.0) == (want == 1.0)
        assert (found == 0.0) == (want == 0.0)


def test_empty_and_full_masks() -> None:
    empty, full = rle.encode(np.zeros((6, 6))), rle.encode(np.ones((6, 6)))
    assert tracklet_quality.contour_accuracy(empty, empty) == 1
    assert tracklet_quality.contour_accuracy(full, empty) == 0
    assert tracklet_quality.contour_accuracy(full, full) == 1


def test_perfect_tracklet() -> None:
    truth, results = tubes([[A, None, B]], [[A, None, B]])
    (found,) = tracklet_quality.evaluate_tracklets(truth, results).tracklets
    assert (found.J, found.F, found.JF, found.boundary_iou, found.stability) == (
        1, 1, 1, 1, pytest.approx(math.nan, nan_ok=True),
    )  # fmt: skip
    assert (found.result, found.tube_iou, found.num_frames) == (0, 1, 2)


def test_region_similarity_skips_frames_without_both() -> None:
    region, _, _ = tracklet_quality.compare_tubes(coded(A, A, None, None), coded(A, HALF, None, A))
    assert region == pytest.approx((1 + 0.5 + 0) / 3)


def test_stability_by_hand() -> None:
    assert tracklet_quality.temporal_stability([1.0, 0.5, 0.5, 1.0]) == pytest.approx(1 / 3)
    assert tracklet_quality.temporal_stability([0.5] * 4) == 0
    assert tracklet_quality.temporal_stability([1.0, 0.0, 1.0]) == 1
    nan = math.nan
    assert tracklet_quality.temporal_stability([1.0, nan, 0.0, 0.25]) == 0.25
    assert math.isnan(tracklet_quality.temporal_stability([1.0, nan, 0.0]))
    assert math.isnan(tracklet_quality.temporal_stability([]))


def test_flicker_is_unstable_although_the_mean_is_the_same() -> None:
    steady, _ = tubes([[A] * 4], [])
    flicker = tubes([[A] * 4], [[A, None, A, None]])[1]
    halves = tubes([[A] * 4], [[HALF] * 4])[1]
    (unstable,) = tracklet_quality.evaluate_tracklets(steady, flicker).tracklets
    (stable,) = tracklet_quality.evaluate_tracklets(steady, halves).tracklets
    assert unstable.J == stable.J == 0.5
    assert (unstable.stability, stable.stability) == (1, 0)


def dense_boundary(mask: np.ndarray) -> np.ndarray:
    d = boundary_distance(*mask.shape)
    padded = np.pad(mask, d)
    inside = np.ones_like(mask)
    for dy, dx in itertools.product(range(2 * d + 1), repeat=2):
        inside &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return mask & ~inside


def test_boundary_curve() -> None:
    gt, pred = box(2, 2, 30, 30, h=60, w=80), box(4, 2, 30, 33, h=60, w=80)
    _, _, curve = tracklet_quality.compare_tubes(coded(gt, None, gt), coded(pred, pred, None))
    assert curve[0] == pytest.approx(iou(dense_boundary(gt), dense_boundary(pred)))
    assert math.isnan(curve[1])
    assert curve[2] == 0


def test_results_are_assigned_one_to_one_within_the_class() -> None:
    truth, results = tubes([[A, A], [B, B]], [[A, B], [A, A], [B, None]])
    found = tracklet_quality.evaluate_tracklets(truth, results).tracklets
    assert [t.result for t in found] == [1, 2]
    found = tracklet_quality.evaluate_tracklets(truth, results, min_tube_iou=0.6).tracklets
    assert [t.result for t in found] == [1, None]
    for entry in results:
        entry["category_id"] = 99
    found = tracklet_quality.evaluate_tracklets(truth, results).tracklets
    assert [(t.result, t.J, t.F) for t in found] == [(None, 0, 0)] * 2


def test_crowd_and_invisible_tubes_are_left_out() -> None:
    truth, results = tubes([[A, A], [B, B], [None, None]], [[B, B]], crowd=(1,))
    result = tracklet_quality.evaluate_tracklets(truth, results)
    assert [t.annotation_id for t in result.tracklets] == [1]
    assert result.tracklets[0].result is None


def test_tube_ious_alone_are_those_of_the_whole() -> None:
    objects = [[A, A], [B, B], [None, None], [A, B], [HALF, HALF]]
    truth, results = tubes(objects, [[A, B], [A, A]], crowd=(3,))
    whole = tracklet_quality.evaluate_tracklets(truth, results).tracklets
    ious = tracklet_quality.tube_ious(truth, results)
    assert ious == {t.annotation_id: t.tube_iou for t in whole}
    assert len(ious) == 3
    assert 0.0 in ious.values()
    assert max(ious.values()) == 1.0


def test_wrong_size_counts_as_missing() -> None:
    region, contour, curve = tracklet_quality.compare_tubes(coded(A), coded(box(0, 0, 8, 4, h=11)))
    assert (region, contour, curve) == (0, 0, [0])


def test_summary() -> None:
    truth, results = tubes([[A, A], [B, B]], [[A, A]])
    content = tracklet_quality.evaluate_tracklets(truth, results).to_dict()
    assert (content["J"], content["JF"], content["num_tracklets"]) == (0.5, 0.5, 2)
    assert (content["num_found"], content["stability"]) == (1, 0)
    assert content["per_class"]["dog"]["F"] == 0.5
    assert math.isnan(tracklet_quality.QualityResult(()).to_dict()["J"])
