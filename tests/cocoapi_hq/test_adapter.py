"""Scripts written for the YouTube-VIS tools run with one import changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.ytvos import YTVOS, YTVOSeval
from tests.cocoapi_hq.tube_cases import GOLDEN, annotation, random_set, rect, result, truth


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden data are not beside the repository")
@pytest.mark.parametrize(("kind", "key"), [("segm", "ytvis_segm"), ("boundary", "hq_boundary")])
def test_golden_stats(kind: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = GOLDEN / "vis" / "main"
    expected = json.loads((case / "golden.json").read_text())[key]["stats"]
    gt = YTVOS(str(case / "gt.json"), get_boundary=True)
    dt = gt.loadRes(str(case / "results.json"))
    evaluator = YTVOSeval(gt, dt, iouType=kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    np.testing.assert_allclose(evaluator.stats, expected, atol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith(
        " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100"
    )
    assert evaluator.eval["precision"].shape == (10, 101, 4, 4, 3)


def test_parameters_cut_the_set() -> None:
    gt_data, results = random_set(6, videos=5)
    gt = YTVOS(gt_data)
    evaluator = YTVOSeval(gt, gt.loadRes(results), "segm")
    evaluator.params.vidIds = [1, 3]
    evaluator.params.catIds = [1, 2]
    evaluator.params.iouThrs = np.array([0.5, 0.75])
    evaluator.params.maxDets = [1, 5]
    evaluator.evaluate()
    evaluator.accumulate()
    small = {
        **gt_data,
        "videos": [v for v in gt_data["videos"] if v["id"] in (1, 3)],
        "categories": [c for c in gt_data["categories"] if c["id"] in (1, 2)],
        "annotations": [a for a in gt_data["annotations"] if a["video_id"] in (1, 3)],
    }
    rules = cocoapi_hq.PROTOCOLS["hq_ytvis"].with_options(thresholds=(0.5, 0.75), max_dets=(1, 5))
    own = [r for r in results if r["video_id"] in (1, 3)]
    expected = cocoapi_hq.evaluate(small, own, ["tube_mask"], protocol=rules).tubes["tube_mask"]
    assert evaluator.scores is not None
    assert evaluator.scores.stats == expected.stats
    assert evaluator.eval["recall"].shape == (2, 2, 4, 2)


def test_use_cats_zero_is_class_agnostic() -> None:
    box = rect(5, 5, 25, 25)
    gt = YTVOS(truth([annotation(1, 1, [box], 1)], {1: 1}))
    evaluator = YTVOSeval(gt, [result(1, [box], 0.5, 2)])
    evaluator.params.useCats = 0
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert evaluator.stats[0] == pytest.approx(1.0)


def test_look_ups() -> None:
    box = rect(5, 5, 25, 25)
    annotations = [annotation(3, 1, [box, None], 1), annotation(4, 2, [box, box], 2, iscrowd=1)]
    gt = YTVOS(truth(annotations, {1: 2, 2: 2}))
    assert gt.getAnnIds() == [3, 4]
    assert gt.getAnnIds(vidIds=[1]) == [3]
    assert gt.getAnnIds([], [2]) == [4]
    assert gt.getAnnIds(iscrowd=0) == [3]
    assert gt.getAnnIds(areaRng=[0, 100]) == []
    assert gt.getAnnIds(areaRng=[399, 401]) == [3, 4]
    assert gt.getAnnIds(areaRng=[399, 400]) == gt.getAnnIds(areaRng=[400, 401]) == []
    results = gt.loadRes([result(1, [box, None], 0.5, 2)])
    assert results.getAnnIds(iscrowd=0) == [1]
    assert results.getAnnIds(iscrowd=1) == []
    assert gt.getCatIds(catNms=["class 2"]) == [2]
    assert gt.getVidIds(catIds=[2]) == [2]
    assert gt.loadAnns([3])[0]["id"] == 3
    assert gt.loadCats(1)[0]["name"] == "class 1"
    assert gt.loadVids([2])[0]["id"] == 2
    assert gt.annToRLE(gt.anns[3], 1) is None
    assert np.array_equal(gt.annToMask(gt.anns[3], 0), rle.decode(box))
    with pytest.raises(TypeError):
        gt.getAnnIds(imgIds=[1])


def test_misuse_is_named(tmp_path: Path) -> None:
    gt = YTVOS(truth([], {1: 1}))
    with pytest.raises(ScoringError, match="iouType"):
        YTVOSeval(gt, [], "bbox")
    evaluator = YTVOSeval(gt, [])
    for step in (evaluator.accumulate, evaluator.summarize):
        with pytest.raises(ScoringError, match="run"):
            step()
    evaluator.params.recThrs = np.linspace(0, 1, 11)
    with pytest.raises(ScoringError, match="recThrs"):
        evaluator.evaluate()
    with pytest.raises(ScoringError):
        YTVOS(tmp_path / "missing.json")
    gone = YTVOSeval(gt, [result(9, [None], 0.5)])
    with pytest.raises(ScoringError, match="video_id"):
        gone.evaluate()
