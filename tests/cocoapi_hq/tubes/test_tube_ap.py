from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cocoapi_hq
from cocoapi_hq import ScoringError
from cocoapi_hq.tubes import tube_ap
from cocoapi_hq.tubes.protocol import IOU_THRESHOLDS, PROTOCOLS, RECALL_POINTS
from tests.cocoapi_hq import golden_adapter
from tests.cocoapi_hq import reference_tube_ap as reference
from tests.cocoapi_hq.tube_cases import GOLDEN, annotation, random_set, rect, result, truth

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BOTH = ("tube_mask", "tube_boundary")


def stats(gt: Any, results: Any, metric: str = "tube_mask", **options: Any) -> dict[str, float]:
    options.setdefault("protocol", "hq_ytvis")
    return cocoapi_hq.evaluate(gt, results, [metric], **options).tubes[metric].stats


# --- golden data -----------------------------------------------------------------------------

golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden data are not beside the repository")


@golden
def test_golden_check_passes(implementation: str) -> None:
    done = subprocess.run(
        [sys.executable, str(GOLDEN / "check.py"), "--adapter",
         "tests.cocoapi_hq.golden_adapter:adapter", "--only", "[vb]*"],
        cwd=golden_adapter.ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "48 passed, 0 failed" in done.stdout


@golden
def test_mixed_masks_are_the_released_reading() -> None:
    case = GOLDEN / "vis" / "refined_masks"
    expected = json.loads((case / "golden.json").read_text())
    for metric, key in (("tube_mask", "hq_segm"), ("tube_boundary", "hq_boundary")):
        got = stats(case / "gt.json", case / "results.json", metric, mask_field="mixed")
        np.testing.assert_allclose([got[k] for k in KEYS], expected[key]["stats"], atol=1e-6)


# --- against the slow reference ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("metric", BOTH)
def test_random_sets_match_the_reference(seed: int, metric: str, implementation: str) -> None:
    gt, results = random_set(seed)
    expected = reference.evaluate(gt, results, metric)
    got = stats(gt, results, metric)
    for key in KEYS:
        assert got[key] == pytest.approx(expected[key], abs=1e-12), key


def test_matching_by_kernel_and_by_numpy_agree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        num_dt, num_gt = int(rng.integers(0, 8)), int(rng.integers(0, 6))
        iou = rng.choice([0.2, 0.5, 0.6, 0.75, 0.9, 1.0], size=(num_dt, num_gt))
        crowd = rng.random(num_gt) < 0.3
        ignored = (rng.random((3, num_gt)) < 0.3) | crowd
        bars = np.array([0.5, 0.75, 0.9])
        order = np.argsort(ignored, axis=1, kind="stable").astype(np.int32)
        expected = tube_ap.match_numpy(iou, ignored, crowd, bars, order)
        assert np.array_equal(tube_ap.match(iou, ignored, crowd, bars), expected)


# --- hand-computed edges -----------------------------------------------------------------------

BOX = rect(10, 10, 30, 30)  # 400 pixels


def one(masks: list[Any], video: int = 1, **extra: Any) -> dict[str, Any]:
    return truth([annotation(1, video, masks, **extra)], {video: len(masks)})


def test_empty_predictions_score_zero_where_there_is_ground_truth() -> None:
    got = cocoapi_hq.evaluate(one([BOX]), [], protocol="ytvis_2019")
    for scores in got.tubes.values():
        assert scores.stats["AP"] == scores.stats["AR100"] == 0.0
        assert scores.stats["APm"] == -1.0
        assert scores.per_category[1]["AP"] == 0.0
        assert scores.per_category[2]["AP"] == -1.0


def test_nothing_at_all_is_undefined() -> None:
    assert stats(truth([], {1: 1}), [])["AP"] == -1.0
    assert stats(truth([], {}), [])["AP"] == -1.0


def test_video_without_predictions_halves_recall() -> None:
    gt = truth([annotation(1, 1, [BOX]), annotation(2, 2, [BOX])], {1: 1, 2: 1, 3: 1})
    got = stats(gt, [result(1, [BOX], 0.5)])
    assert got["AR100"] == 0.5
    assert got["AP"] == pytest.approx(51 / 101)  # recall points 0 to 0.50


def test_category_without_ground_truth_is_left_out_and_one_without_detections_stays() -> None:
    gt = truth([annotation(1, 1, [BOX], 1), annotation(2, 1, [BOX], 2)], {1: 1}, (1, 2, 3))
    got = stats(gt, [result(1, [BOX], 0.9, 1), result(1, [BOX], 0.9, 3)])
    assert got["AP"] == pytest.approx(0.5)


def test_iou_is_a_ratio_of_sums_and_missing_frames_count() -> None:
    gt = one([BOX, BOX, None, None])
    half = rect(10, 10, 20, 30)  # 200 pixels
    dt = [result(1, [half, BOX, None, half], 0.5)]
    cell = cocoapi_hq.evaluate(gt, dt, ["tube_mask"]).tubes["tube_mask"].cells[0]
    assert cell.iou[0, 0] == (200 + 400) / (400 + 400 + 0 + 200)


def test_threshold_is_inclusive() -> None:
    dt = [result(1, [rect(10, 10, 20, 30)], 0.5)]  # IoU exactly 0.5
    got = stats(one([BOX]), dt)
    assert got["AP50"] == pytest.approx(1.0)
    assert got["AP"] == pytest.approx(0.1)
    assert IOU_THRESHOLDS[8] == 0.8999999999999999


@pytest.mark.parametrize(("pixels", "small", "medium"), [(16384, 1, 1), (16383, 1, -1)])
def test_area_ranges_are_inclusive_and_read_from_the_file(
    pixels: int, small: float, medium: float
) -> None:
    got = stats(one([BOX, None], areas=[pixels, None]), [result(1, [BOX, None], 0.5)])
    assert (got["APs"], got["APm"]) == (pytest.approx(small), pytest.approx(medium))


def test_average_area_leaves_out_null_and_zero() -> None:
    got = stats(one([BOX, BOX, BOX], areas=[20000, 0, None]), [result(1, [BOX] * 3, 0.5)])
    assert got["APm"] == pytest.approx(1.0)
    assert got["APs"] == -1.0


def test_detection_outside_the_range_is_ignored_when_unmatched() -> None:
    big = rect(0, 0, 200, 200, 300, 400)
    small = rect(250, 250, 260, 260, 300, 400)
    gt = truth([annotation(1, 1, [big])], {1: 1}, h=300, w=400)
    dt = [result(1, [small], 0.9), result(1, [big], 0.5)]
    got = stats(gt, dt)
    assert got["APm"] == pytest.approx(1.0)
    assert got["AP"] == pytest.approx(0.5)


def test_crowd_takes_many_and_is_ignored() -> None:
    crowd = annotation(1, 1, [BOX], iscrowd=1)
    gt = truth([crowd, annotation(2, 1, [rect(40, 10, 50, 20)])], {1: 1})
    dt = [
        result(1, [rect(10, 10, 30, 28)], 0.9),
        result(1, [rect(10, 12, 30, 30)], 0.8),
        result(1, [rect(40, 10, 50, 20)], 0.5),
    ]
    assert stats(gt, dt)["AP50"] == pytest.approx(1.0)
    assert stats(gt, dt)["AP"] > 0.9


def test_crowd_uses_plain_iou() -> None:
    gt = truth([annotation(1, 1, [BOX], iscrowd=1), annotation(2, 1, [rect(40, 0, 44, 4)])], {1: 1})
    inside = [result(1, [rect(10, 10, 18, 18)], 0.9), result(1, [rect(40, 0, 44, 4)], 0.5)]
    assert stats(gt, inside)["AP50"] == pytest.approx(0.5)  # the part inside the crowd is an FP


def test_crowd_skips_the_boundary_term() -> None:
    ring_like = rect(12, 12, 30, 30)
    gt = truth([annotation(1, 1, [BOX], iscrowd=1), annotation(2, 1, [rect(40, 0, 44, 4)])], {1: 1})
    dt = [result(1, [ring_like], 0.9), result(1, [rect(40, 0, 44, 4)], 0.5)]
    answer = cocoapi_hq.evaluate(gt, dt, BOTH)
    mask, boundary = (answer.tubes[m].cells[0].iou for m in BOTH)
    assert mask[0, 0] == boundary[0, 0] == 324 / 400
    assert answer.tubes["tube_boundary"].stats["AP50"] == pytest.approx(1.0)


def test_ties_go_by_video_id_then_by_file_order() -> None:
    wrong = rect(40, 30, 50, 38)
    gt = truth([annotation(1, 7, [BOX]), annotation(2, 3, [BOX])], {7: 1, 3: 1})
    right_first = stats(gt, [result(7, [wrong], 0.5), result(3, [BOX], 0.5)])
    assert right_first["AP50"] == pytest.approx(51 / 101)  # video 3 first: TP, then FP
    wrong_first = stats(gt, [result(7, [BOX], 0.5), result(3, [wrong], 0.5)])
    assert wrong_first["AP50"] == pytest.approx(0.5 * 51 / 101)
    single = one([BOX])
    assert stats(single, [result(1, [wrong], 0.5), result(1, [BOX], 0.5)])["AP50"] < 0.51
    assert stats(single, [result(1, [BOX], 0.5), result(1, [wrong], 0.5)])["AP50"] > 0.99


def test_cells_come_in_any_order() -> None:
    wrong = rect(40, 30, 50, 38)
    gt = truth([annotation(1, 7, [BOX]), annotation(2, 3, [BOX])], {7: 1, 3: 1})
    dt = [result(7, [wrong], 0.5), result(3, [BOX], 0.5)]
    cells = cocoapi_hq.evaluate(gt, dt, ["tube_mask"]).tubes["tube_mask"].cells
    assert [cell.video_id for cell in cells] == [3, 7]
    forward, backward = (
        tube_ap.accumulate(some, [1], PROTOCOLS["ytvis_2019"]).precision
        for some in (cells, cells[::-1])
    )
    assert np.array_equal(forward, backward)


def test_of_two_equal_ious_the_later_ground_truth_wins() -> None:
    gt = truth([annotation(5, 1, [BOX]), annotation(6, 1, [BOX])], {1: 1})
    cell = (
        cocoapi_hq.evaluate(gt, [result(1, [BOX], 0.5)], ["tube_mask"]).tubes["tube_mask"].cells[0]
    )
    assert cell.annotations[cell.matched[0, 0, 0]] == 6


def test_ground_truth_id_zero_can_be_matched() -> None:
    gt = truth([annotation(0, 1, [BOX])], {1: 1})
    assert stats(gt, [result(1, [BOX], 0.5)])["AP"] == pytest.approx(1.0)


def test_max_dets_are_per_video_and_class() -> None:
    wrong = rect(40, 30, 50, 38)
    dt = [result(1, [wrong], 0.9), result(1, [BOX], 0.8)]
    got = stats(one([BOX]), dt)
    assert (got["AR1"], got["AR10"]) == (0.0, 1.0)
    many = [result(1, [wrong], 0.9)] * 100 + [result(1, [BOX], 0.8)]
    assert stats(one([BOX]), many)["AR100"] == 0.0
    assert stats(one([BOX]), many, max_dets=(1, 10, 101))["AR101"] == 1.0


def test_recall_grid_is_linspace() -> None:
    assert RECALL_POINTS[35] != 35 / 100
    recall, precision = np.array([7 / 20]), np.array([1.0])
    assert tube_ap.sample_precision(recall, precision).sum() == 35  # not 36


def test_wrong_size_frame_vanishes_from_both_sums(caplog: pytest.LogCaptureFixture) -> None:
    other = rect(0, 0, 5, 5, 20, 30)
    gt = one([BOX, BOX])
    answer = cocoapi_hq.evaluate(gt, [result(1, [BOX, other], 0.5)], ["tube_mask"])
    assert answer.tubes["tube_mask"].cells[0].iou[0, 0] == 1.0
    assert "video_id=1, results[0], annotation id=1: 1 frames" in caplog.text


def test_all_zero_mask_is_like_null() -> None:
    empty = rect(0, 0, 0, 0)
    a = stats(one([BOX, BOX]), [result(1, [BOX, None], 0.5)])
    assert a == stats(one([BOX, BOX]), [result(1, [BOX, empty], 0.5)])
    assert stats(one([BOX, BOX]), [result(1, [BOX, []], 0.5)]) == a


def test_all_missing_detection_is_a_false_positive() -> None:
    dt = [result(1, [None], 0.9), result(1, [BOX], 0.5)]
    assert stats(one([BOX]), dt)["AP"] == pytest.approx(0.5)
    assert stats(one([BOX]), dt, "tube_boundary")["AP"] == pytest.approx(0.5)


# --- boundary score ----------------------------------------------------------------------------


def hollow() -> dict[str, Any]:
    mask = np.zeros((60, 80), dtype=bool)  # d = 2
    mask[10:50, 10:70] = True
    mask[18:42, 18:62] = False
    return dict(cocoapi_hq.io.rle.encode(mask))


def test_boundary_score_is_the_smaller_of_two() -> None:
    solid = rect(10, 10, 70, 50, 60, 80)
    gt = truth([annotation(1, 1, [solid])], {1: 1}, h=60, w=80)
    dt = [result(1, [hollow()], 0.5)]
    mask_iou = (2400 - 24 * 44) / 2400
    ring = 2400 - 36 * 56
    inner = 28 * 48 - 24 * 44  # the hole's contour
    ratio = ring / (ring + inner)
    low = {"thresholds": (0.3,)}
    official = PROTOCOLS["hq_ytvis"].with_options(**low)
    paper = official.with_options(boundary="paper")
    got = [
        cocoapi_hq.evaluate(gt, dt, ["tube_boundary"], protocol=p).tubes["tube_boundary"]
        for p in (official, paper)
    ]
    assert got[0].cells[0].iou[0, 0] == min(mask_iou, ratio)
    assert got[1].cells[0].iou[0, 0] == ratio


def test_paper_rule_has_no_minimum() -> None:
    """A hollow prediction: boundary IoU above the mask IoU, below 0.5."""
    mask = np.zeros((200, 200), dtype=bool)  # d = 6
    mask[20:180, 20:180] = True
    thin = mask.copy()
    thin[40:160, 40:160] = False
    gt = truth([annotation(1, 1, [cocoapi_hq.io.rle.encode(mask)])], {1: 1}, h=200, w=200)
    dt = [result(1, [cocoapi_hq.io.rle.encode(thin)], 0.5)]
    pair = [thin], [mask]
    boundary = reference.tube_iou(reference.contour(pair[0]), reference.contour(pair[1]))
    assert reference.tube_iou(*pair) < 0.5 < boundary
    answer = cocoapi_hq.evaluate(gt, dt, ["tube_boundary"], boundary="paper")
    assert answer.tubes["tube_boundary"].cells[0].iou[0, 0] == boundary
    assert answer.tubes["tube_boundary"].stats["AP50"] == pytest.approx(1.0)
    assert stats(gt, dt, "tube_boundary")["AP50"] == 0.0


def test_one_dilation_ratio_for_both_sides() -> None:
    got = stats(one([BOX]), [result(1, [BOX], 0.5)], "tube_boundary", dilation_ratio=0.05)
    assert got["AP"] == pytest.approx(1.0)


# --- options -------------------------------------------------------------------------------------


def test_list_lengths() -> None:
    gt = one([BOX, BOX])
    short = [result(1, [BOX], 0.5)]
    with pytest.raises(ScoringError, match=r"results\[0\]\.segmentations has 1 entries.*2 frames"):
        stats(gt, short)
    assert stats(gt, short, lengths="cut")["AP"] == pytest.approx(1.0)
    assert stats(gt, short, lengths="pad")["AP50"] == pytest.approx(1.0)
    assert stats(gt, short, lengths="pad")["AP75"] == 0.0
    long = [result(1, [BOX] * 3, 0.5)]
    assert stats(gt, long, lengths="cut")["AP"] == pytest.approx(1.0)
    with pytest.raises(ScoringError, match="more than the 2 frames"):
        stats(gt, long, lengths="pad")


def test_class_agnostic_mode() -> None:
    gt = truth([annotation(1, 1, [BOX], 1)], {1: 1})
    dt = [result(1, [BOX], 0.5, 2)]
    assert stats(gt, dt)["AP"] == 0.0
    assert stats(gt, dt, class_agnostic=True)["AP"] == pytest.approx(1.0)


def test_occlusion_ranges() -> None:
    words = ["severe_occlusion", "no_occlusion", None, "slight_occlusion"]  # top 2: 0.75, 0.25
    hidden = annotation(1, 1, [BOX] * 4, occlusion=words)
    plain = annotation(2, 1, [rect(40, 0, 50, 9)] * 4, occlusion=["no_occlusion"] * 4)
    gt = truth([hidden, plain], {1: 4})
    got = stats(gt, [result(1, [BOX] * 4, 0.5)], protocol="ovis")
    assert got["APmedium"] == pytest.approx(1.0)  # 0.5 belongs to medium and to heavy
    assert got["APheavy"] == pytest.approx(1.0)
    assert got["APlight"] == 0.0
    assert len(got) == 18


def test_occlusion_is_never_a_reason_to_ignore_a_detection() -> None:
    gt = one([BOX], occlusion=["no_occlusion"])
    dt = [result(1, [rect(40, 0, 50, 9)], 0.9), result(1, [BOX], 0.5)]
    assert stats(gt, dt, protocol="ovis")["APlight"] == pytest.approx(0.5)


@pytest.mark.parametrize("words", [None, [], [None], ["half"], [3], "no_occlusion"])
def test_occlusion_must_be_readable(words: Any) -> None:
    gt = one([BOX], occlusion=words)
    with pytest.raises(ScoringError, match="occlusion"):
        stats(gt, [], protocol="ovis")


def test_protocol_refuses_bad_options() -> None:
    for options in ({"boundary": "x"}, {"lengths": "x"}, {"mask_field": "x"}, {"max_dets": (10, 1)},
                    {"dilation_ratio": 0.0}, {"max_dets": ()}, {"protocol": "coco"}):  # fmt: skip
        with pytest.raises(ScoringError):
            stats(one([BOX]), [], **options)


# --- properties ----------------------------------------------------------------------------------

quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@quick
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False))
def test_order_changes_nothing(seed: int, order: Any) -> None:
    gt, results = random_set(seed)
    expected = cocoapi_hq.evaluate(gt, results).to_dict(per_category=True)
    mixed = copy.copy(results)
    order.shuffle(mixed)
    shuffled = {**gt, **{k: list(gt[k]) for k in ("videos", "annotations", "categories")}}
    order.shuffle(shuffled["videos"])
    order.shuffle(shuffled["categories"])
    got = cocoapi_hq.evaluate(shuffled, mixed).to_dict(per_category=True)
    assert got == expected


@quick
@given(seed=st.integers(0, 10**6))
def test_perfect_results_score_one(seed: int) -> None:
    gt, _ = random_set(seed)
    annotations = [a for a in gt["annotations"] if any(a["areas"])]
    for a in annotations:
        a["iscrowd"] = 0
    gt["annotations"] = annotations
    results = [
        result(a["video_id"], a["segmentations"], 0.5 + i / 1000, a["category_id"])
        for i, a in enumerate(annotations)
    ]
    for scores in cocoapi_hq.evaluate(gt, results).tubes.values():
        expected = 1.0 if annotations else -1.0
        assert scores.stats["AP"] == pytest.approx(expected)
        assert scores.stats["AR100"] == expected


@quick
@given(seed=st.integers(0, 10**6), x=st.integers(0, 30))
def test_a_weaker_false_positive_never_helps(seed: int, x: int) -> None:
    gt, results = random_set(seed)
    if not gt["videos"]:
        return
    before = cocoapi_hq.evaluate(gt, results)
    for video in gt["videos"]:
        wrong = [rect(x, 0, x + 2, 2)] * 4
        got = cocoapi_hq.evaluate(gt, [*results, result(video["id"], wrong, -1.0, 1)])
        for metric in BOTH:
            rows = [
                cell.iou[cell.results == len(results)].max(initial=0.0)
                for cell in got.tubes[metric].cells
                if len(results) in cell.results
            ]
            if max(rows) < 0.5:
                assert got.tubes[metric].stats["AP"] <= before.tubes[metric].stats["AP"] + 1e-12
