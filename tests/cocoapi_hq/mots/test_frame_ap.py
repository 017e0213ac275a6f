"""Single-frame mask AP: golden numbers, rules by hand, and COCO's evaluator on random scenes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.mots import frame_ap
from tests.cocoapi_hq import reference_mots as ref
from tests.cocoapi_hq.reference_mots import CLASSES, Frame, Obj, box

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "data" / "metrics" / "mots"
CASES = [p for p in sorted(GOLDEN.glob("*/golden.json")) if "ins_seg" in json.loads(p.read_text())]

A, B = box(0, 0, 8, 4), box(10, 0, 18, 4)


def car(mask: np.ndarray, score: float = 0.5, **kwargs: object) -> Obj:
    return Obj(1, "car", mask, score=score, **kwargs)


def table(frames: list[Frame], **kwargs: bool) -> dict[str, dict[str, float]]:
    videos = {"v": frames}
    return frame_ap.evaluate_frame_ap(
        ref.to_json(videos, "gt"), ref.to_json(videos, "preds"), **kwargs
    ).rows()


@pytest.mark.skipif(not CASES, reason="golden data are not there")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_golden(path: Path) -> None:
    golden = json.loads(path.read_text())
    inputs = [path.parent / golden["inputs"][key] for key in ("gt", "results", "config")]
    rows = frame_ap.evaluate_frame_ap(*inputs).rows()
    for key, row in golden["ins_seg"].items():
        for name, value in row.items():
            assert rows[key][name] == pytest.approx(float(value), abs=1e-6, nan_ok=True)


def test_perfect_and_absent_classes() -> None:
    rows = table([Frame([car(A)], [car(A)])])
    assert rows["AP"]["car"] == pytest.approx(100)
    assert rows["AP"]["OVERALL"] == pytest.approx(100)  # classes without objects are left out
    assert math.isnan(rows["AP"]["bus"])


def test_no_predictions_is_zero() -> None:
    rows = table([Frame([car(A)], [])])
    assert (rows["AP"]["car"], rows["AR100"]["car"]) == (0, 0)
    gt = ref.to_json({"v": [Frame([car(A)])]}, "gt")
    assert frame_ap.evaluate_frame_ap(gt, []).rows()["AP"]["OVERALL"] == 0


def test_iou_of_exactly_half_counts() -> None:
    rows = table([Frame([car(A)], [car(box(0, 0, 4, 4))])])
    assert rows["AP50"]["car"] == pytest.approx(100)
    assert rows["AP"]["car"] == pytest.approx(10)


def test_crowd_takes_many_by_share_of_the_detection() -> None:
    crowd = car(box(0, 0, 20, 10), ignored=True)
    small = [car(box(x, 5, x + 2, 7), 0.9) for x in (0, 4, 8)]
    rows = table([Frame([car(A), crowd], [car(A, 0.1), *small])])
    assert rows["AP"]["car"] == pytest.approx(100)
    other = Obj(2, "bus", box(0, 0, 20, 10), ignored=True)  # hides its own class only
    rows = table([Frame([car(A), other], [car(A, 0.1), *small])])
    assert rows["AP"]["car"] == pytest.approx(25)


def test_of_two_equal_ious_the_later_object_wins() -> None:
    # The first detection overlaps both objects alike; the second fits only the later one.
    frame = Frame(
        [car(box(0, 0, 8, 4)), car(box(4, 0, 12, 4))],
        [car(box(2, 0, 10, 4), 0.9), car(box(6, 0, 14, 4), 0.1)],
    )
    rows = table([frame], allow_overlap=True)
    assert rows["AP50"]["car"] == pytest.approx(100 * 51 / 101)
    frame.gt.reverse()
    assert table([frame], allow_overlap=True)["AP50"]["car"] == pytest.approx(100)


def test_overlap_switch(caplog: pytest.LogCaptureFixture) -> None:
    frame = Frame([car(A)], [car(A, 0.9), car(box(7, 0, 12, 4), 0.1)])
    with caplog.at_level(logging.WARNING):
        assert table([frame])["AP"]["car"] == 0
    assert "overlap in 1 frames" in caplog.text
    assert table([frame], allow_overlap=True)["AP"]["car"] == pytest.approx(100)


def test_frames_are_paired_by_name() -> None:
    videos = {"v": [Frame([car(A)], [car(A)]), Frame([car(B)], [car(B)])]}
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    for frame in (*gt, *preds):
        del frame["frameIndex"]
    assert frame_ap.evaluate_frame_ap(gt, preds[::-1]).rows()["AP"]["car"] == pytest.approx(100)
    for frame in preds:
        del frame["videoName"]
        frame["name"] = "other/" + frame["name"]
    with pytest.raises(ScoringError, match="no frame is in the ground truth"):
        frame_ap.evaluate_frame_ap(gt, preds)


def test_repeated_names_take_the_video_along() -> None:
    videos = {name: [Frame([car(m)], [car(m)])] for name, m in (("a", A), ("b", B))}
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    for frame in (*gt, *preds):
        frame["name"] = "0.jpg"
    assert frame_ap.evaluate_frame_ap(gt, preds).rows()["AP"]["car"] == pytest.approx(100)
    with pytest.raises(ScoringError, match=r"'a/0\.jpg' appears twice"):
        frame_ap.evaluate_frame_ap(gt, [preds[0], preds[0], preds[1]])


def test_unknown_frames_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    videos = {"v": [Frame([car(A)], [car(A)]), Frame([car(B)], [car(B)])]}
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    with caplog.at_level(logging.WARNING):
        rows = frame_ap.evaluate_frame_ap(gt[:1], preds).rows()
    assert rows["AP"]["car"] == pytest.approx(100)
    assert "1 frames are not in the ground truth" in caplog.text


def test_score_is_required() -> None:
    preds = ref.to_json({"v": [Frame([], [car(A)])]}, "preds")
    gt = copy.deepcopy(preds)
    del preds[0]["labels"][0]["score"]
    with pytest.raises(ScoringError, match=r"labels\[0\]\.score is None"):
        frame_ap.evaluate_frame_ap(gt, preds)


def test_to_dict_says_which_overlap_rule() -> None:
    gt = ref.to_json({"v": [Frame([car(A)], [car(A)])]}, "gt")
    preds = ref.to_json({"v": [Frame([car(A)], [car(A)])]}, "preds")
    content = frame_ap.evaluate_frame_ap(gt, preds, allow_overlap=True).to_dict()
    assert content["allow_overlap"] is True
    assert content["per_class"]["car"]["AP"] == pytest.approx(100)


def random_frames(seed: int) -> list[Frame]:
    """Large enough for all three area ranges; boxes, tied scores, overlaps, crowds."""
    rng = random.Random(seed)
    size = {"h": 130, "w": 220}

    def some_box() -> tuple[int, int, int, int]:
        side = rng.choice([8, 32, 40, 96, 110])
        x, y = rng.randint(0, 100), rng.randint(0, 20)
        return x, y, x + side, y + rng.choice([8, 32, 96])

    frames = []
    for _ in range(rng.randint(1, 4)):
        frame = Frame()
        for i in range(rng.randint(0, 4)):
            x0, y0, x1, y1 = some_box()
            kind = rng.choice(["car", "car", "bus"])
            crowd = rng.random() < 0.2
            frame.gt.append(Obj(i, kind, box(x0, y0, x1, y1, **size), ignored=crowd))
            for _ in range(rng.randint(0, 3)):
                d = rng.choice([0, 0, 1, 2, 5, 16])
                mask = box(x0 + d, y0, x1, y1 + rng.choice([0, d]), **size)
                score = rng.choice([0.1, 0.5, 0.5, rng.random()])
                frame.preds.append(Obj(0, kind, mask, score=score))
        for _ in range(rng.randint(0, 2)):
            frame.preds.append(Obj(0, "bus", box(*some_box(), **size), score=rng.random()))
        frames.append(frame)
    return frames


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_equals_coco(seed: int) -> None:
    frames = random_frames(seed)
    result = frame_ap.evaluate_frame_ap(
        ref.to_json({"v": frames}, "gt"), ref.to_json({"v": frames}, "preds"), allow_overlap=True
    )
    truth = COCO()
    annotations, detections = [], []
    for t, frame in enumerate(frames):
        for obj in frame.gt:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": t,
                    "category_id": CLASSES.index(obj.category),
                    "segmentation": rle.encode(obj.mask),
                    "area": int(obj.mask.sum()),
                    "iscrowd": int(obj.ignored),
                }
            )
        for obj in frame.preds:
            detections.append(
                {
                    "image_id": t,
                    "category_id": CLASSES.index(obj.category),
                    "segmentation": rle.encode(obj.mask),
                    "score": obj.score,
                }
            )
    if not detections:
        return
    truth.dataset = {
        "images": [{"id": t, "height": 130, "width": 220} for t in range(len(frames))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.moveaxis(evaluation.eval["precision"][..., 2], (0, 1, 2, 3), (2, 3, 0, 1))
    recall = np.moveaxis(evaluation.eval["recall"], (0, 1, 2, 3), (2, 0, 1, 3))
    np.testing.assert_allclose(np.nan_to_num(result.precision, nan=-1), precision, atol=1e-12)
    np.testing.assert_allclose(np.nan_to_num(result.recall, nan=-1), recall, atol=1e-12)
