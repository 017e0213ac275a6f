"""Metrics against slow references written from their definitions, and values by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cocoapi_hq.analysis.attributes import GROUPS, score_attributes
from cocoapi_hq.analysis.errors import analyse_errors
from cocoapi_hq.io import rle
from cocoapi_hq.mots import hota
from cocoapi_hq.tubes import tracklet_quality
from cocoapi_hq.tubes.protocol import PROTOCOLS
from tests.cocoapi_hq.tube_cases import annotation, blob, rect, result, truth

H, W = 24, 30
Dense = list[np.ndarray | None]


# --- HOTA ---------------------------------------------------------------------------------------


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 0.0


def best_pairs(weight: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs of the largest total, by trying all of them."""
    num_gt, num_pred = weight.shape
    best, chosen = -1.0, []
    small, large = sorted((num_gt, num_pred))
    for order in itertools.permutations(range(large), small):
        pairs = [(k, j) if num_gt <= num_pred else (j, k) for k, j in enumerate(order)]
        total = sum(weight[p] for p in pairs)
        if total > best:
            best, chosen = total, pairs
    return chosen


def slow_hota(gt: Sequence[Dense], pred: Sequence[Dense]) -> dict[str, float]:
    """HOTA as arXiv:2009.07736 and TrackEval define it, of one class in one video."""
    frames = []
    for t in range(len(gt[0])):
        g = [i for i, tube in enumerate(gt) if tube[t] is not None]
        p = [j for j, tube in enumerate(pred) if tube[t] is not None]
        frames.append((g, p, np.array([[iou(gt[i][t], pred[j][t]) for j in p] for i in g])))
    potential = np.zeros((len(gt), len(pred)))
    count_g, count_p = np.zeros(len(gt)), np.zeros(len(pred))
    for g, p, s in frames:
        count_g[g] += 1
        count_p[p] += 1
        for a, i in enumerate(g):
            for b, j in enumerate(p):
                others = s[a, :].sum() + s[:, b].sum() - s[a, b]
                potential[i, j] += s[a, b] / others if others else 0.0
    alignment = potential / np.maximum(count_g[:, None] + count_p[None, :] - potential, 1e-9)
    sums = dict.fromkeys(("HOTA", "DetA", "AssA"), 0.0)
    means = []  # of the IoU, where there is a match
    for alpha in (k / 20 for k in range(1, 20)):
        matches, local = [], []
        for g, p, s in frames:
            if not g or not p:
                continue
            score = np.array(
                [[alignment[i, j] * s[a, b] for b, j in enumerate(p)] for a, i in enumerate(g)]
            )
            for a, b in best_pairs(score):
                if s[a, b] >= alpha - 1e-12:
                    matches.append((g[a], p[b]))
                    local.append(s[a, b])
        tp = len(matches)
        det = tp / (count_g.sum() + count_p.sum() - tp)
        ass = 0.0
        for i, j in matches:
            tpa = matches.count((i, j))
            ass += tpa / (count_g[i] + count_p[j] - tpa) / tp
        sums["DetA"] += det / 19
        sums["AssA"] += ass / 19
        sums["HOTA"] += math.sqrt(det * ass) / 19
        means += [np.mean(local)] if local else []
    return sums | {"LocA": float(np.mean(means))}


@pytest.mark.parametrize("seed", range(12))
def test_hota_of_tubes_that_overlap_equals_the_slow_reference(seed: int) -> None:
    """Several guesses for every object: which of them is its track is what HOTA decides."""
    rng = np.random.default_rng(seed)
    shapes = [blob(rng, H, W) for _ in range(3)]

    def tube(shape: np.ndarray, loss: float, reach: int) -> Dense:
        moved = [np.roll(shape, rng.integers(-reach, reach + 1, 2), (0, 1)) for _ in range(5)]
        return [m if rng.random() > loss and m.any() else None for m in moved]

    gt = [tube(shape, 0.1, 0) for shape in shapes]
    pred = [tube(shapes[rng.integers(3)], 0.3, int(rng.integers(1, 5))) for _ in range(5)]

    def coded(tubes: Sequence[Dense]) -> list[list[Any]]:
        return [[None if m is None else rle.encode(m) for m in tube] for tube in tubes]

    rows = [annotation(k, 1, masks) for k, masks in enumerate(coded(gt), start=1)]
    dt = [result(1, masks, 1.0) for masks in coded(pred)]
    found = hota.evaluate_hota_tubes(truth(rows, {1: 5}, (1,), H, W), dt).rows()["OVERALL"]
    for key, value in slow_hota(gt, pred).items():
        assert found[key] == pytest.approx(value, abs=1e-9), key


def test_alignment_by_hand() -> None:
    """Which of two guesses is the track: the overlap over both lengths, less what they share.

    The object is there for ten frames. The first guess has it alone in five, the second in three;
    in the last two the first covers 100 of its 200 pixels, the second 133, so their shares of the
    overlap are 0.429 and 0.571. Sums are 5.858 and 4.142, alignments 5.858 / (10 + 7 - 5.858) =
    0.526 and 4.142 / (10 + 5 - 4.142) = 0.381; times IoU, 0.263 against 0.254: the first. (Without
    what they share, 5.858 / 17 * 0.5 = 0.172 against 4.142 / 15 * 0.665 = 0.184: the second.)
    """
    whole, half, more = rect(0, 0, 20, 10), rect(0, 0, 10, 10), rect(0, 0, 19, 7)
    first = [whole] * 5 + [None] * 3 + [half] * 2
    second = [None] * 5 + [whole] * 3 + [more] * 2
    gt = truth([annotation(1, 1, [whole] * 10)], {1: 10}, (1,))
    dt = [result(1, first, 1.0), result(1, second, 1.0)]
    counts = hota.evaluate_hota_tubes(gt, dt).counts["class 1"]
    assert counts.true_positives[0] == 10
    # Seven frames with 7 / (10 + 7 - 7), three with 3 / (10 + 5 - 3).
    assert counts.association[0] == pytest.approx(7 * 0.7 + 3 * 0.25)


# --- J and F ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w", "pixels"), [(480, 854, 8), (240, 320, 4), (40, 60, 1)])
def test_tolerance_of_contours(h: int, w: int, pixels: int) -> None:
    """DAVIS: ceil(0.008 * diagonal); 979.6 -> 7.84 -> 8, 400 -> 3.2 -> 4, 72.1 -> 1."""
    assert tracklet_quality.contour_tolerance(h, w) == pixels


def test_f_steps_down_behind_the_tolerance() -> None:
    """Squares of 20 in a frame with a tolerance of 2 pixels, moved by 1 to 4 pixels to the right.

    The contour of a square lies to its left and above, and on its last column and row. Moved by 2
    everything is near; from 3 on, the left and right edges are not.
    """
    h, w = 120, 160  # diagonal 200: ceil(1.6) = 2
    base = rect(40, 40, 60, 60, h, w)
    values = [
        tracklet_quality.contour_accuracy(rect(40 + k, 40, 60 + k, 60, h, w), base)
        for k in range(5)
    ]
    assert values[:3] == [1.0, 1.0, 1.0]
    assert values[3] < 0.9
    assert values[4] < values[3]


def test_a_result_of_another_class_belongs_to_nothing() -> None:
    box, other = rect(10, 10, 30, 30), rect(40, 0, 50, 10)
    gt = truth([annotation(1, 1, [box], 1), annotation(2, 1, [other], 2)], {1: 1})
    found = tracklet_quality.evaluate_tracklets(gt, [result(1, [box], 0.9, 2)]).tracklets
    assert [(t.annotation_id, t.result, t.J) for t in found] == [(1, None, 0.0), (2, None, 0.0)]


def test_frames_of_another_size_vanish_from_the_tube_iou() -> None:
    """As in tube AP: neither intersection nor union; J counts the frame as missed."""
    box, odd = rect(10, 10, 30, 30), rect(0, 0, 5, 5, 20, 30)
    gt = truth([annotation(1, 1, [box, box])], {1: 2})
    (found,) = tracklet_quality.evaluate_tracklets(gt, [result(1, [box, odd], 0.9)]).tracklets
    assert (found.tube_iou, found.J) == (1.0, 0.5)


# --- attributes ---------------------------------------------------------------------------------


def test_groups_by_attribute() -> None:
    """A steady tube, one that moves by a tenth of its width, and one that jumps."""
    h, w = 60, 200
    steady = [rect(0, 0, 20, 20, h, w)] * 11  # the first length of the second group
    drift = [rect(2 * t, 25, 2 * t + 20, 45, h, w) for t in range(11)]  # 18 / 22 of 20 columns
    jump = [rect(60 * (t % 3), 50, 60 * (t % 3) + 20, 60, h, w) for t in range(11)]
    rows = [annotation(k, 1, masks) for k, masks in enumerate((steady, drift, jump), start=1)]
    gt = truth(rows, {1: 11}, (1,), h, w)
    dt = [result(1, steady, 0.9), result(1, drift, 0.8)]
    found = {
        (row.group.attribute, row.group.label): row
        for row in score_attributes(gt, dt, "tube_mask", protocol=PROTOCOLS["hq_ytvis"])
    }
    assert len(found) == len(GROUPS)
    assert {k[1]: v.tubes for k, v in found.items() if k[0] == "speed"} == {
        "slow": 1, "medium": 1, "fast": 1,
    }  # fmt: skip
    assert found["speed", "slow"].ap == pytest.approx(1.0)
    assert found["speed", "fast"].ap == 0.0
    assert found["length", "11 to 30"].tubes == 3
    assert found["length", "up to 10"].ap == -1.0
    assert found["occlusion", "none"].tubes == 3


def test_occlusion_is_the_largest_share_of_the_box() -> None:
    """Boxes of 20 x 20: one covered by a quarter of its columns, and by a fifth by another."""
    h, w = 40, 100
    tubes = [[rect(0, 0, 20, 20, h, w)], [rect(15, 0, 35, 20, h, w)], [rect(31, 0, 51, 20, h, w)]]
    rows = [annotation(k, 1, masks) for k, masks in enumerate(tubes, start=1)]
    gt = truth(rows, {1: 1}, (1,), h, w)
    scores = score_attributes(gt, [], "tube_mask", protocol=PROTOCOLS["hq_ytvis"])
    counts = {s.group.label: s.tubes for s in scores if s.group.attribute == "occlusion"}
    assert counts == {"none": 0, "partial": 3, "heavy": 0}
    tubes[2] = [rect(0, 0, 12, 20, h, w)]  # covers 12 of 20 columns of the first
    rows = [annotation(k, 1, masks) for k, masks in enumerate(tubes, start=1)]
    scores = score_attributes(
        truth(rows, {1: 1}, (1,), h, w), [], "tube_mask", protocol=PROTOCOLS["hq_ytvis"]
    )
    counts = {s.group.label: s.tubes for s in scores if s.group.attribute == "occlusion"}
    assert counts == {"none": 0, "partial": 1, "heavy": 2}


# --- errors -------------------------------------------------------------------------------------


def test_background_bar_is_inclusive() -> None:
    """Ten by ten pixels: overlap of one column of ten gives 10 / 190, of two 20 / 180 > 0.1."""
    gt = truth([annotation(1, 1, [rect(0, 0, 10, 10)])], {1: 1})

    def counts(x: int) -> dict[str, int]:
        dt = [result(1, [rect(x, 0, x + 10, 10)], 0.5)]
        return analyse_errors(gt, dt, protocol=PROTOCOLS["hq_ytvis"]).counts

    assert counts(9)["background"] == 1
    assert counts(8)["localisation"] == 1
    # Exactly a tenth: 20 of 200 pixels.
    gt = truth([annotation(1, 1, [rect(0, 0, 20, 10)])], {1: 1})
    dt = [result(1, [rect(0, 0, 2, 10)], 0.5)]
    found = analyse_errors(gt, dt, protocol=PROTOCOLS["hq_ytvis"])
    assert found.counts["localisation"] == 1


def test_half_of_the_frames_right_is_temporal() -> None:
    """The object is there for two frames; the detection goes on for two, or three, with others."""
    box, other = rect(10, 10, 30, 30), rect(30, 10, 60, 40)
    for more, kind in ((2, "temporal"), (3, "localisation")):
        masks = [box] * 2 + [other] * more
        gt = truth([annotation(1, 1, [box] * 2 + [None] * more)], {1: 2 + more})
        dt = [result(1, masks, 0.5)]  # tube IoU 800 / (800 + 900 more), at least 0.1
        found = analyse_errors(gt, dt, protocol=PROTOCOLS["hq_ytvis"]).counts
        assert found[kind] == 1, (more, found)
