"""Cases in which exactly one type of error exists, and what mending it must win."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq import ScoringError
from cocoapi_hq.analysis.errors import DETECTION_ERRORS, ERROR_TYPES, analyse_errors
from cocoapi_hq.tubes.protocol import PROTOCOLS
from tests.cocoapi_hq.tube_cases import annotation, random_set, rect, result, truth

HQ = PROTOCOLS["hq_ytvis"]
A, B = rect(5, 5, 25, 25), rect(35, 10, 55, 30)
FAR = rect(0, 36, 4, 40)
BOTH = ("tube_mask", "tube_boundary")


def analyse(gt: Any, results: Any, metric: str = "tube_mask", **options: Any) -> Any:
    options.setdefault("protocol", HQ)
    return analyse_errors(gt, results, metric, **options)


def only(answer: Any, kind: str, count: int = 1) -> None:
    """Exactly one type occurs, and only mending it wins anything."""
    expected = dict.fromkeys(ERROR_TYPES, 0) | {kind: count}
    assert answer.counts == expected
    for other in ERROR_TYPES:
        if other != kind:
            assert answer.gains[other] == pytest.approx(0.0), other


def two_objects(frames: int = 4) -> dict[str, Any]:
    return truth(
        [annotation(1, 1, [A] * frames, 1), annotation(2, 1, [B] * frames, 1)], {1: frames}
    )


@pytest.mark.parametrize("metric", BOTH)
def test_no_error(metric: str) -> None:
    answer = analyse(two_objects(), [result(1, [A] * 4, 0.9), result(1, [B] * 4, 0.8)], metric)
    assert answer.ap == pytest.approx(1.0)
    assert sum(answer.counts.values()) == 0
    assert all(gain == pytest.approx(0.0) for gain in answer.gains.values())


@pytest.mark.parametrize("metric", BOTH)
def test_class(metric: str) -> None:
    gt = truth([annotation(1, 1, [A] * 4, 1)], {1: 4})
    answer = analyse(gt, [result(1, [A] * 4, 0.9, 2)], metric)
    only(answer, "class")
    assert (answer.ap, answer.gains["class"]) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("metric", BOTH)
def test_localisation(metric: str) -> None:
    gt = truth([annotation(1, 1, [A] * 4, 1)], {1: 4})
    moved = rect(15, 5, 35, 25)  # IoU 1/3 in every frame
    answer = analyse(gt, [result(1, [moved] * 4, 0.9)], metric)
    only(answer, "localisation")
    assert answer.gains["localisation"] == pytest.approx(1.0)
    assert answer.targets[0].best_score == pytest.approx(1 / 3)


def test_duplicate() -> None:
    gt = truth([annotation(1, 1, [A] * 4), annotation(2, 2, [A] * 4)], {1: 4, 2: 4})
    dt = [result(1, [A] * 4, 0.9), result(1, [A] * 4, 0.8), result(2, [A] * 4, 0.7)]
    answer = analyse(gt, dt)
    only(answer, "duplicate")
    assert answer.ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert answer.gains["duplicate"] == pytest.approx(1 - answer.ap)


def test_background() -> None:
    gt = truth([annotation(1, 1, [A] * 4)], {1: 4})
    answer = analyse(gt, [result(1, [FAR] * 4, 0.9), result(1, [A] * 4, 0.8)])
    only(answer, "background")
    assert (answer.ap, answer.gains["background"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_missed() -> None:
    answer = analyse(two_objects(), [result(1, [A] * 4, 0.9)])
    only(answer, "missed")
    assert answer.ap == pytest.approx(51 / 101)
    assert answer.gains["missed"] == answer.gains["false_negative"] == pytest.approx(50 / 101)


def test_identity_switch_is_temporal() -> None:
    gt = two_objects(6)
    dt = [
        result(1, [B] * 6, 0.9),
        result(1, [A, A, A, B, B, B], 0.5),
    ]  # the second follows both objects, 3 frames each: IoU 3/9 with either
    answer = analyse(gt, dt)
    assert answer.counts["temporal"] == 1
    assert answer.switches == 1
    only(answer, "temporal")
    assert answer.gains["temporal"] == pytest.approx(50 / 101)


def test_switch_to_an_object_of_another_class_is_temporal() -> None:
    gt = truth([annotation(1, 1, [A] * 6, 1), annotation(2, 1, [B] * 6, 2)], {1: 6})
    dt = [result(1, [B] * 6, 0.9, 2), result(1, [A, A, A, B, B, B], 0.5, 1)]
    answer = analyse(gt, dt)
    only(answer, "temporal")
    assert answer.switches == 1
    assert answer.gains["temporal"] == pytest.approx(0.5)


def test_fragment_is_temporal() -> None:
    gt = truth([annotation(1, 1, [A] * 6)], {1: 6})
    answer = analyse(gt, [result(1, [A, A, None, None, None, None], 0.5)])
    only(answer, "temporal")
    assert answer.switches == 0
    assert answer.gains["temporal"] == pytest.approx(1.0)


def test_coarse_contours_are_localisation_and_not_temporal() -> None:
    """Every frame follows the object, the boundary score is just too low."""
    box = rect(40, 40, 140, 140, 200, 240)
    coarse = rect(34, 34, 146, 146, 200, 240)
    gt = truth([annotation(1, 1, [box] * 4)], {1: 4}, h=200, w=240)
    dt = [result(1, [coarse] * 4, 0.5)]
    only(analyse(gt, dt, "tube_boundary"), "localisation")
    only(analyse(gt, dt, "tube_mask"), "missed", 0)


def test_half_good_frames_without_a_gap_are_localisation() -> None:
    gt = truth([annotation(1, 1, [A] * 4)], {1: 4})
    near, off = rect(11, 5, 31, 25), rect(14, 5, 34, 25)  # IoU 0.54 and 0.38
    only(analyse(gt, [result(1, [near, near, off, off], 0.5)]), "localisation")


def test_both() -> None:
    gt = truth([annotation(1, 1, [A] * 4, 1), annotation(2, 1, [B] * 4, 2)], {1: 4})
    moved = rect(15, 5, 35, 25)
    dt = [result(1, [A] * 4, 0.9, 1), result(1, [B] * 4, 0.4, 2), result(1, [moved] * 4, 0.5, 2)]
    answer = analyse(gt, dt)
    only(answer, "both")
    assert answer.gains["both"] == pytest.approx(0.25)


def test_mending_gives_a_tube_once() -> None:
    gt = truth([annotation(1, 1, [A] * 4, 1)], {1: 4})
    dt = [result(1, [A] * 4, 0.9, 2), result(1, [A] * 4, 0.8, 2)]
    answer = analyse(gt, dt)
    assert answer.counts["class"] == 2
    assert answer.gains["class"] == pytest.approx(1.0)


def test_crowd_and_ignored_detections_have_no_error() -> None:
    gt = truth([annotation(1, 1, [A], iscrowd=1), annotation(2, 1, [B])], {1: 1})
    answer = analyse(gt, [result(1, [A], 0.9), result(1, [B], 0.5)])
    assert answer.ap == pytest.approx(1.0)
    assert sum(answer.counts.values()) == 0
    assert len(answer.targets) == 1


def test_class_agnostic_has_no_class_errors() -> None:
    gt = truth([annotation(1, 1, [A] * 4, 1)], {1: 4})
    answer = analyse(
        gt, [result(1, [A] * 4, 0.9, 2)], protocol=HQ.with_options(class_agnostic=True)
    )
    assert answer.ap == pytest.approx(1.0)


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize("seed", range(4))
def test_random_sets_are_consistent(seed: int, metric: str) -> None:
    gt, results = random_set(seed, videos=6)
    answer = analyse(gt, results, metric)
    scores = cocoapi_hq.evaluate(gt, results, [metric]).tubes[metric]
    assert answer.ap == pytest.approx(max(scores.stats["AP50"], 0.0))
    assert all(gain >= -1e-12 for gain in answer.gains.values())
    unmatched = [d for d in answer.detections if d.error is not None]
    assert {d.error for d in unmatched} <= set(DETECTION_ERRORS)
    assert sum(answer.counts[k] for k in DETECTION_ERRORS) == len(unmatched)
    assert answer.gains["false_positive"] >= answer.gains["background"] - 1e-12
    parallel = analyse(gt, results, metric, jobs=3)
    assert parallel.to_dict() == answer.to_dict()
    assert np.isfinite(list(answer.gains.values())).all()


def test_arguments_are_checked() -> None:
    for options in ({"foreground": 0.1}, {"background": -1.0}, {"foreground": 1.1}):
        with pytest.raises(ScoringError, match="bars"):
            analyse(two_objects(), [], **options)
    with pytest.raises(ScoringError, match="metric"):
        analyse(two_objects(), [], "AP")
