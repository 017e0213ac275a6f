from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq import ScoringError, names
from cocoapi_hq.analysis.attributes import GROUPS, score_attributes
from cocoapi_hq.analysis.bootstrap import compare, draw_weights, resample_ap
from cocoapi_hq.tubes.protocol import PROTOCOLS
from cocoapi_hq.tubes.tube_ap import accumulate, summary
from tests.cocoapi_hq.tube_cases import GOLDEN, annotation, random_set, rect, result, truth

BOX = rect(10, 10, 30, 30)


def write(folder: Path, gt: Any, results: Any) -> tuple[Path, Path]:
    paths = folder / "gt.json", folder / "results.json"
    for path, data in zip(paths, (gt, results), strict=True):
        path.write_text(json.dumps(data))
    return paths


def test_names_are_those_of_the_table() -> None:
    assert tuple(PROTOCOLS) == names.PROTOCOL_NAMES
    assert callable(cocoapi_hq.evaluate)


@pytest.mark.parametrize("boundary", ["official", "paper"])
def test_jobs_files_and_objects_agree(tmp_path: Path, boundary: str) -> None:
    gt, results = random_set(11, videos=9)
    options: dict[str, Any] = {"boundary": boundary, "per_video": True}
    expected = cocoapi_hq.evaluate(gt, results, **options).to_dict(True, True)
    files = write(tmp_path, gt, results)
    for sources in ((gt, results), files):
        for jobs in (1, 4):
            answer = cocoapi_hq.evaluate(*sources, jobs=jobs, **options)
            assert answer.to_dict(True, True) == expected


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    gt, results = random_set(11, videos=9)
    results[3]["score"] = float("nan")
    with pytest.raises(ScoringError, match=r"results\[3\]\.score is nan"):
        cocoapi_hq.evaluate(gt, results, jobs=3)


def test_json_keys_and_table() -> None:
    gt, results = random_set(1)
    answer = cocoapi_hq.evaluate(gt, results)
    numbers = answer.to_dict()
    assert set(numbers) == {"tube_mask", "tube_boundary"}
    for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"):
        assert -1.0 <= numbers["tube_mask"][key] <= 1.0
    json.dumps(numbers, allow_nan=False)
    assert "tube_boundary" in answer.table()
    assert "AP75" in answer.table()


def test_per_video_numbers_are_those_of_the_video_alone() -> None:
    gt, results = random_set(5)
    answer = cocoapi_hq.evaluate(gt, results, ["tube_mask"], per_video=True).tubes["tube_mask"]
    assert set(answer.per_video) == {v["id"] for v in gt["videos"]}
    for key, numbers in answer.per_video.items():
        alone = {
            **gt,
            "videos": [v for v in gt["videos"] if v["id"] == key],
            "annotations": [a for a in gt["annotations"] if a["video_id"] == key],
        }
        own = [r for r in results if r["video_id"] == key]
        assert numbers == cocoapi_hq.evaluate(alone, own, ["tube_mask"]).tubes["tube_mask"].stats


def test_unknown_categories_are_dropped_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    gt = truth([annotation(1, 1, [BOX]), annotation(2, 1, [BOX], 77)], {1: 1})
    dt = [result(1, [BOX], 0.5), result(1, [BOX], 0.9, 99), result(1, [BOX], 0.9, 98)]
    answer = cocoapi_hq.evaluate(gt, dt)
    assert answer.tubes["tube_mask"].stats["AP"] == pytest.approx(1.0)
    assert "1 annotations of unknown categories" in caplog.text
    assert "2 results of unknown categories" in caplog.text
    assert len(answer.warnings) == 2


def test_refined_masks_are_used_and_named(caplog: pytest.LogCaptureFixture) -> None:
    refined = annotation(1, 1, [rect(10, 10, 30, 20)], segmentations_refined=[BOX])
    gt = truth([refined], {1: 1})
    dt = [result(1, [BOX], 0.5)]
    assert cocoapi_hq.evaluate(gt, dt).to_dict()["tube_mask"]["AP"] == pytest.approx(1.0)
    assert "1 annotations carry segmentations_refined" in caplog.text
    coarse = cocoapi_hq.evaluate(gt, dt, mask_field="segmentations").to_dict()
    assert coarse["tube_mask"]["AP"] == pytest.approx(0.1)
    only = truth([{**refined}], {1: 1})
    del only["annotations"][0]["segmentations"]
    assert cocoapi_hq.evaluate(only, dt).to_dict()["tube_boundary"]["AP"] == pytest.approx(1.0)


def test_repeated_annotation_ids_are_refused() -> None:
    same = truth([annotation(1, 1, [BOX]), annotation(1, 1, [BOX])], {1: 1})
    apart = truth([annotation(1, 1, [BOX]), annotation(1, 2, [BOX])], {1: 1, 2: 1})
    for gt in (same, apart):
        with pytest.raises(ScoringError, match=r"id 1 appears"):
            cocoapi_hq.evaluate(gt, [])


def test_arguments_are_checked() -> None:
    gt = truth([annotation(1, 1, [BOX])], {1: 1})
    for options in ({"metrics": ["AP"]}, {"metrics": []}, {"jobs": 0}, {"protocol": "x"}):
        with pytest.raises(ScoringError):
            cocoapi_hq.evaluate(gt, [], **options)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden data are not beside the repository")
def test_track_metrics_through_the_same_call() -> None:
    case = GOLDEN / "mots" / "main"
    expected = json.loads((case / "golden.json").read_text())["mots"]
    answer = cocoapi_hq.evaluate(
        case / "gt.json",
        case / "results.json",
        ["bdd_mots", "hota", "frame_ap"],
        config=case / "config.json",
    )
    assert answer.to_dict()["bdd_mots"]["mMOTSA"] == pytest.approx(expected["mMOTA"])
    assert answer.to_dict()["bdd_mots"]["IDSw"] == 12
    assert {"hota", "frame_ap"} <= set(answer.to_dict())
    assert "mIDF1" in answer.table()
    with pytest.raises(ScoringError, match="no option 'iou'"):
        cocoapi_hq.evaluate(case / "gt.json", case / "results.json", ["hota"], iou=1)


# --- bootstrap ---------------------------------------------------------------------------------


def test_a_resample_equals_scoring_repeated_videos() -> None:
    gt, results = random_set(2, videos=6)
    scores = cocoapi_hq.evaluate(gt, results, ["tube_mask"]).tubes["tube_mask"]
    weights = draw_weights(len(scores.video_ids), 20, seed=3)
    got = resample_ap(scores.cells, scores.video_ids, weights, range(10), 100)
    for row, value in zip(weights, got, strict=True):
        repeated = []
        for key, times in zip(scores.video_ids, row, strict=True):
            repeated += [c for c in scores.cells if c.video_id == key] * int(times)
        curves = accumulate(repeated, list(scores.category_names), scores.protocol)
        assert value == pytest.approx(summary(curves, scores.protocol)["AP"], abs=1e-12)


def test_comparison_is_paired() -> None:
    gt, results = random_set(4, videos=8)
    first = cocoapi_hq.evaluate(gt, results).tubes["tube_mask"]
    worse = cocoapi_hq.evaluate(gt, results[: len(results) // 2]).tubes["tube_mask"]
    answer = compare([first, worse, first], resamples=200)
    for interval in answer.intervals:
        assert interval.low <= interval.high
    assert answer.intervals[0] == answer.intervals[2]
    assert (answer.differences[2].low, answer.differences[2].high) == (0.0, 0.0)
    assert answer.differences[1].value == worse.stats["AP"] - first.stats["AP"]
    assert compare([first], key="AP50").intervals[0].value == first.stats["AP50"]
    for arguments in (([],), ([first], "AR1"), ([first], "AP", 0)):
        with pytest.raises(ScoringError):
            compare(*arguments)


def test_comparison_of_undefined_scores() -> None:
    nothing = cocoapi_hq.evaluate(truth([], {1: 1}), []).tubes["tube_mask"]
    assert compare([nothing, nothing]).intervals[1].value == -1.0


# --- attributes ----------------------------------------------------------------------------------


def groups(gt: Any, results: Any, metric: str = "tube_mask") -> dict[tuple[str, str], Any]:
    rows = score_attributes(gt, results, metric, protocol=PROTOCOLS["hq_ytvis"])
    assert [row.group for row in rows] == list(GROUPS)
    return {(row.group.attribute, row.group.label): row for row in rows}


def test_attributes_by_hand() -> None:
    still = annotation(1, 1, [BOX] * 12)
    fast = annotation(2, 1, [rect(2 * t, 31, 2 * t + 4, 36) if t < 4 else None for t in range(12)])
    over = annotation(3, 1, [rect(12, 12, 28, 28)] * 12)
    rows = groups(truth([still, fast, over], {1: 12}), [result(1, [BOX] * 12, 0.5)])
    assert {k: r.tubes for k, r in rows.items() if r.tubes} == {
        ("size", "small"): 3,
        ("length", "up to 10"): 1,
        ("length", "11 to 30"): 2,
        ("speed", "slow"): 2,
        ("speed", "fast"): 1,
        ("occlusion", "none"): 1,
        ("occlusion", "heavy"): 2,  # 64% of one box, all of the other
    }
    assert rows["length", "up to 10"].ap == 0.0
    assert rows["speed", "medium"].ap == -1.0
    assert rows["speed", "slow"].ap == pytest.approx(51 / 101)


def test_size_groups_equal_the_area_ranges() -> None:
    gt, results = random_set(8)
    rng = np.random.default_rng(0)
    for a in gt["annotations"]:
        a["areas"] = [None if v is None else float(rng.choice([100, 128**2, 3e4, 256**2, 1e5]))
                      for v in a["areas"]]  # fmt: skip
    for metric in ("tube_mask", "tube_boundary"):
        numbers = cocoapi_hq.evaluate(gt, results, [metric]).tubes[metric].stats
        rows = groups(gt, results, metric)
        for label, key in (("small", "APs"), ("medium", "APm"), ("large", "APl")):
            assert rows["size", label].ap == pytest.approx(numbers[key])
