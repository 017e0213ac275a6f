"""What an annotation may leave out, and what then stands in its place; and warnings of readers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import cocoapi_hq
from cocoapi_hq.exceptions import ScoringError
from tests.cocoapi_hq.tube_cases import annotation, rect, result, truth
from vmt.data.datasets.ytvis import load_ytvis_json

H, W = 300, 400
#: 100 x 163 = 16,300 pixels: small (128 squared is 16,384); 100 x 165 = 16,500: medium.
SMALL, MEDIUM = rect(0, 0, 163, 100, H, W), rect(0, 100, 165, 200, H, W)
TRACKS = ["hota", "tracklet_quality"]


def bare(annotations: list[dict[str, Any]], **lengths: int) -> dict[str, Any]:
    """Ground truth with nothing but what is needed."""
    rows = [
        {k: v for k, v in row.items() if k not in ("id", "areas", "iscrowd")} for row in annotations
    ]
    data = truth(rows, {1: 2, 2: 2}, h=H, w=W)
    for video in data["videos"]:
        for key in ("length", "file_names", "height", "width"):
            del video[key]
    return data


@pytest.mark.usefixtures("implementation")
def test_what_is_absent_is_computed_as_official_files_have_it() -> None:
    rows = [annotation(1, 1, [SMALL, None]), annotation(2, 2, [MEDIUM, MEDIUM])]
    full = truth(rows, {1: 2, 2: 2}, h=H, w=W)
    results = [result(1, [SMALL, None], 0.9), result(2, [MEDIUM, None], 0.8)]
    asked = cocoapi_hq.evaluate(full, results, ["tube_mask", "tube_boundary", *TRACKS])
    got = cocoapi_hq.evaluate(bare(rows), results, ["tube_mask", "tube_boundary", *TRACKS])
    assert json.dumps(got.to_dict()) == json.dumps(asked.to_dict())
    stats = got.tubes["tube_mask"].stats
    # One perfect small tube; one medium tube of IoU exactly 0.5: found at one of ten thresholds.
    assert stats["APs"] == pytest.approx(1.0)
    assert stats["APm"] == pytest.approx(0.1)
    assert stats["APl"] == -1.0
    assert stats["AR100"] == pytest.approx((1 + 1 + 9 * 0.5 - 1) / 10)


@pytest.mark.usefixtures("implementation")
def test_areas_are_those_of_the_plain_masks_when_refined_ones_are_scored() -> None:
    row = annotation(1, 1, [SMALL, SMALL], segmentations_refined=[MEDIUM, MEDIUM])
    with_areas = truth([row], {1: 2}, h=H, w=W)
    without = copy.deepcopy(with_areas)
    del without["annotations"][0]["areas"]
    results = [result(1, [MEDIUM, MEDIUM], 0.9)]
    for data in (with_areas, without):
        stats = cocoapi_hq.evaluate(data, results).tubes["tube_mask"].stats
        assert (stats["AP"], stats["APs"], stats["APm"]) == (pytest.approx(1.0),) * 2 + (-1.0,)


@pytest.mark.usefixtures("implementation")
def test_areas_are_means_over_the_frames_that_show_the_object() -> None:
    """16,500 pixels in one frame of two are medium; with the other frame they would be small."""
    row = annotation(1, 1, [MEDIUM, None])
    del row["areas"]
    wrong = rect(0, 200, 165, 300, H, W)  # 16,500 pixels elsewhere: a false positive, medium too
    results = [result(1, [wrong, None], 0.9), result(1, [MEDIUM, None], 0.5)]
    stats = cocoapi_hq.evaluate(truth([row], {1: 2}, h=H, w=W), results).tubes["tube_mask"].stats
    assert (stats["APs"], stats["APl"]) == (-1.0, -1.0)
    assert stats["APm"] == pytest.approx(0.5)


def test_crowds_are_read_alike_by_every_reader(tmp_path: Path) -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, h=H, w=W)
    for value, message in (
        ("0", "iscrowd is '0'; give 0 or 1"),
        (2, "iscrowd is 2"),
        ([], "iscrowd"),
    ):
        data["annotations"][0]["iscrowd"] = value
        for metric in ("tube_mask", *TRACKS):
            with pytest.raises(ScoringError, match=message):
                cocoapi_hq.evaluate(data, [], [metric])
        path = tmp_path / "gt.json"
        path.write_text(json.dumps(data))
        (record,) = load_ytvis_json(path, tmp_path, "own")
        assert record.annotations is not None
        with pytest.raises(ValueError, match=message):
            record.annotations.load()


@pytest.mark.parametrize("metric", ["tube_mask", *TRACKS])
@pytest.mark.parametrize("value", ["1", 1.0, None, True])
def test_category_ids_are_integers(metric: str, value: Any) -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, h=H, w=W)
    with pytest.raises(ScoringError, match=r"results\[0\]\.category_id is .*; give the integer id"):
        cocoapi_hq.evaluate(data, [result(1, [SMALL, None], 1.0, value)], [metric])


@pytest.mark.parametrize("metric", ["tube_mask", *TRACKS])
def test_ids_from_0_are_told(metric: str, caplog: pytest.LogCaptureFixture) -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, (1, 2), h=H, w=W)
    results = [result(1, [SMALL, None], 1.0, 0), result(1, [SMALL, None], 0.9, 1)]
    cocoapi_hq.evaluate(data, results, [metric])
    assert "1 results of unknown categories are left out: category_id 0 (1)" in caplog.text
    assert "the ground truth has 1 to 2" in caplog.text
    assert "They seem to count from 0" in caplog.text
    caplog.clear()
    cocoapi_hq.evaluate(data, [result(1, [SMALL, None], 1.0, 7)], [metric])
    assert "category_id 7 (1)" in caplog.text
    assert "count from 0" not in caplog.text


@pytest.mark.parametrize("metric", ["tube_mask", *TRACKS])
def test_masks_of_another_size_are_told(metric: str, caplog: pytest.LogCaptureFixture) -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, h=H, w=W)
    odd = rect(0, 0, 5, 5, H // 2, W // 2)
    cocoapi_hq.evaluate(data, [result(1, [odd, None], 1.0)], [metric])
    assert "another size than the ground truth" in caplog.text
    caplog.clear()
    cocoapi_hq.evaluate(data, [result(1, [SMALL, None], 1.0)], [metric])
    assert caplog.text == ""


def test_results_of_another_video_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, h=H, w=W)
    data["videos"][0]["file_names"] = ["JPEGImages/dog/0.jpg", "JPEGImages/dog/1.jpg"]
    for name in ("dog", "video1", "video_1"):
        cocoapi_hq.evaluate(data, [result(1, [SMALL, None], 1.0, video_name=name)])
    assert "calls it otherwise" not in caplog.text
    cocoapi_hq.evaluate(data, [result(1, [SMALL, None], 1.0, video_name="cat")])
    assert "results of video_id=1 call it 'cat'" in caplog.text


@pytest.mark.parametrize("metric", TRACKS)
def test_refined_masks_are_read_by_every_metric(
    metric: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = annotation(1, 1, [SMALL, None], segmentations_refined=[MEDIUM, None])
    data = truth([row], {1: 2}, h=H, w=W)
    key = {"hota": "HOTA", "tracklet_quality": "J"}[metric]
    for masks, field, right in ((MEDIUM, None, 1.0), (MEDIUM, "segmentations", 0.0),
                                (SMALL, "segmentations", 1.0), (SMALL, "mixed", 1.0)):  # fmt: skip
        scores = cocoapi_hq.evaluate(
            data, [result(1, [masks, None], 1.0)], [metric], mask_field=field
        )
        assert scores.others[metric][key] == right
    assert "1 annotations carry segmentations_refined" in caplog.text


def test_singular_keys_and_missing_categories_are_named() -> None:
    data = truth([annotation(1, 1, [SMALL, None])], {1: 2}, h=H, w=W)
    wrong = result(1, [SMALL, None], 1.0)
    wrong["segmentation"] = wrong.pop("segmentations")
    for metric in ("tube_mask", *TRACKS):
        with pytest.raises(ScoringError, match=r"no 'segmentations' \(it has 'segmentation'\)"):
            cocoapi_hq.evaluate(data, [wrong], [metric])
    del data["categories"]
    with pytest.raises(ScoringError, match="no 'categories', which name the classes"):
        cocoapi_hq.evaluate(data, [])
