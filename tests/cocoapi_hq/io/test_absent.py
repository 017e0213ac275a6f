"""A frame without the object, however it is written, means the same to every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq.check.files import check_file
from cocoapi_hq.io import rle
from cocoapi_hq.mots import scalabel_io
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from cocoapi_hq.ytvos import YTVOS
from tests.cocoapi_hq.tube_cases import H, W, annotation, rect, result, truth
from vmt.data.convert import load_coco_video, write_ytvis_json
from vmt.data.datasets.coco import load_coco_json
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.degrade_file import degrade_file
from vmt.data.mask_files.base import FrameSet
from vmt.data.mask_files.open import open_mask_file
from vmt.inference.video_writer import write_png

BOX = rect(10, 10, 30, 30)
SPELLINGS: list[Any] = [
    None, [], {}, "", [[]], [[], []], {"size": [H, W], "counts": ""}, {"size": [H, W], "counts": []}
]  # fmt: skip


@pytest.mark.parametrize("absent", SPELLINGS, ids=repr)
def test_absent_means_absent(absent: Any, tmp_path: Path) -> None:
    assert rle.is_absent(absent)
    gt = truth([annotation(1, 1, [BOX, None, BOX])], {1: 3})
    gt["annotations"][0]["segmentations"][1] = absent
    metrics = ["tube_mask", "tube_boundary", "hota", "tracklet_quality"]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt))

    # Scoring, either side: two of three frames overlap wholly, nothing is added by the third.
    for spelled in (None, absent):
        scores = cocoapi_hq.evaluate(gt, [result(1, [BOX, spelled, BOX], 0.5)], metrics)
        assert scores.tubes["tube_mask"].stats["AP"] == pytest.approx(1.0)
        assert scores.tubes["tube_boundary"].stats["AP"] == pytest.approx(1.0)
        assert scores.others["hota"]["HOTA"] == 1.0
        assert scores.others["tracklet_quality"]["JF"] == 1.0
    assert YTVOS(gt).frame_rle(gt["annotations"][0], 1) is None

    # The checker: only what official evaluators would trip over is a defect, and null mends it.
    report = check_file(path)
    assert len(report.defects) == (absent is not None)
    assert report.mended["annotations"][0]["segmentations"] == [BOX, None, BOX]

    # Training, refining, degrading.
    (record,) = load_ytvis_json(path, tmp_path, "own")
    assert record.annotations is not None
    assert record.annotations.load()[0].masks == (BOX, None, BOX)
    (video,) = open_mask_file(path).videos
    masks = video.load(FrameSet("x", (H, W), None, 3))
    assert list(masks.frames) == [0, 2]
    assert degrade_file(path, tmp_path / "coarse.json", "halo", 0)["masks"] == 2


@pytest.mark.parametrize("absent", SPELLINGS, ids=repr)
def test_absent_in_images_means_absent(absent: Any, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for t in range(2):
        write_png(tmp_path / "v" / f"{t}.png", np.zeros((H, W), np.uint8))
    images = [
        {"id": t, "file_name": f"v/{t}.png", "height": H, "width": W, "video_id": 1, "frame_id": t}
        for t in range(2)
    ]
    row = {"category_id": 1, "instance_id": 7, "iscrowd": 0}
    rows = [
        {"id": 1, "image_id": 0, "segmentation": BOX, **row},
        {"id": 2, "image_id": 1, "segmentation": absent, **row},
    ]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(
        {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    ))  # fmt: skip
    assert len(load_coco_json(path, tmp_path, "own")) == 1
    write_ytvis_json(load_coco_video(path, tmp_path).data, tmp_path / "out.json")
    (written,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert written["segmentations"] == [BOX, None]
    frames = [{"videoName": "v", "name": "f", "frameIndex": 0,
               "labels": [{"id": "1", "category": "car", "rle": absent}]}]  # fmt: skip
    (frame,) = scalabel_io.load_frames(frames, BDD100K_MOTS, is_gt=True)
    assert frame.rles == []


def test_a_mask_without_a_pixel_and_one_that_is_broken_are_not_absent() -> None:
    assert not rle.is_absent(rect(0, 0, 0, 0))
    for other in (0, False, 3, "null", [[1, 2]], {"size": [H, W]}, {"counts": "x"}, [None]):
        assert not rle.is_absent(other)
