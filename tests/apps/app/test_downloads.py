"""The files of a visitor hold its masks, and other commands read them."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.apps.app.conftest import FRAMES, SIZE, Steps
from vmt.apps.app import downloads
from vmt.apps.app.actions import sharpen
from vmt.apps.app.networks import Networks
from vmt.apps.app.session import AppError, Session
from vmt.data.convert import open_source
from vmt.data.mask_files.base import Change, FrameSet
from vmt.data.mask_files.open import MaskOptions, open_mask_file
from vmt.inference.video_file import VideoFile

#: Frame -> rectangle (y1, y2, x1, x2), for two objects of two classes and one without a mask.
CUP = {1: (10, 20, 10, 30), 2: (12, 22, 12, 32)}
DOG = {t: (25, 45, 40 + t, 60 + t) for t in range(FRAMES)}


def rectangle(y1: int, y2: int, x1: int, x2: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.fixture
def drawn(session: Session) -> Session:
    session.add("nothing")
    for label, boxes in (("dog", DOG), ("cup", CUP)):
        track = session.add(label)
        for t, sides in boxes.items():
            track.put(t, rle.encode(rectangle(*sides)))
    return session


def masks_of(path: Path) -> list[dict[int, np.ndarray]]:
    """Frame -> mask, of each object that ``vmt refine`` reads; the one in few frames first."""
    (video,) = open_mask_file(path, MaskOptions(one_video=True)).videos
    loaded = video.load(FrameSet("the video", SIZE, None, FRAMES))
    masks = [
        {t: mask for t in loaded.frames if (mask := loaded.at(t)[n]).any()}
        for n in range(len(loaded.tracklets))
    ]
    return sorted(masks, key=len)


def check(found: dict[int, np.ndarray], boxes: dict[int, tuple[int, int, int, int]]) -> None:
    assert sorted(found) == sorted(boxes)
    for t, sides in boxes.items():
        np.testing.assert_array_equal(found[t], rectangle(*sides))


def test_ytvis_json(drawn: Session) -> None:
    path = downloads.ytvis_json(drawn, Steps().job())
    content = json.loads(path.read_text())
    (video,) = content["videos"]
    assert (video["height"], video["width"], video["length"]) == (*SIZE, FRAMES)
    assert content["categories"] == [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    assert [a["category_id"] for a in content["annotations"]] == [2, 1]
    for masks, boxes in zip(masks_of(path), (CUP, DOG), strict=True):
        check(masks, boxes)
    assert str(drawn.folder) not in path.read_text()


def test_coco_json(drawn: Session) -> None:
    path = downloads.coco_json(drawn, Steps().job())
    content = json.loads(path.read_text())
    assert len(content["images"]) == FRAMES
    rows = content["annotations"]
    assert len(rows) == len(DOG) + len(CUP)
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["track_id"] for row in rows} == {2, 3}
    first = next(row for row in rows if row["track_id"] == 3)
    assert (first["image_id"], first["area"], first["bbox"]) == (2, 200, [10, 10, 20, 10])
    np.testing.assert_array_equal(rle.decode(first["segmentation"]), rectangle(*CUP[1]))
    record = open_source("coco-video", path, path.parent).data[0]  # vmt convert-annotations
    assert [len([m for m in t.masks if m]) for t in record.tracklets()] == [len(DOG), len(CUP)]


def test_png_zip(drawn: Session, tmp_path: Path) -> None:
    path = downloads.png_zip(drawn, Steps().job())
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "out")
        rows = list(csv.reader(io.StringIO(archive.read("labels.csv").decode())))
    assert rows == [["id", "label"], ["2", "dog"], ["3", "cup"]]
    maps = sorted((tmp_path / "out/masks").iterdir())
    assert [p.name for p in maps] == [f"{t:05d}.png" for t in range(FRAMES)]
    for t, map_file in enumerate(maps):
        values = np.array(Image.open(map_file))
        np.testing.assert_array_equal(values == 2, rectangle(*DOG[t]))
        np.testing.assert_array_equal(values == 3, rectangle(*CUP.get(t, (0, 0, 0, 0))))
    for masks, boxes in zip(masks_of(tmp_path / "out/masks"), (CUP, DOG), strict=True):
        check(masks, boxes)


def test_a_stopped_zip_is_none(drawn: Session) -> None:
    with pytest.raises(AppError, match="no file was made"):
        downloads.png_zip(drawn, Steps(stop_at=2).job())
    assert not list(drawn.folder.glob("masks.zip*"))


def test_overlay(drawn: Session) -> None:
    path = downloads.overlay(drawn, Steps().job())
    frames = [list(VideoFile(p)) for p in (path, drawn.video().source.path)]
    assert len(frames[0]) == FRAMES
    for t, (painted, plain) in enumerate(zip(*frames, strict=True)):
        change = np.abs(painted.astype(int) - plain).mean(2)
        assert change[rectangle(*DOG[t])].mean() > 15
        assert change[:8, 70:].mean() < 6
    half = downloads.overlay(drawn, Steps(stop_at=2).job())
    assert len(list(VideoFile(half))) == 2


def test_sharpened_masks_go_into_files(drawn: Session, networks: Networks) -> None:
    sharpen(drawn, networks, Steps().job())
    content = json.loads(downloads.ytvis_json(drawn, Steps().job()).read_text())
    areas = [[a for a in row["areas"] if a] for row in content["annotations"]]
    assert areas == [[400 + 80] * FRAMES, [200 + 60] * 2]


def test_report(drawn: Session, networks: Networks) -> None:
    with pytest.raises(AppError, match="sharpen masks first"):
        downloads.report(drawn, Steps().job(), "mask_refiner")
    sharpen(drawn, networks, Steps().job())
    path = downloads.report(drawn, Steps().job(), "mask_refiner")
    text = path.read_text()
    assert "mask_refiner" in text
    assert str(drawn.folder) not in text  # nothing of the server
    cells = re.findall(r"<tr>(.*?)</tr>", text)[1:]
    assert len(cells) == 2
    shares = {re.findall(r"<td>(.*?)</td>", row)[2:4][0]: row for row in cells}
    assert "20.0%" in shares[str(FRAMES)]  # 80 of 400 pixels
    assert "30.0%" in shares["2"]  # 60 of 200
    assert "data:image/jpeg" in text


def test_what_was_followed_goes_into_files(session: Session) -> None:
    track = session.add("cup")
    track.put(1, rle.encode(rectangle(*CUP[1])))
    for t, sides in ((0, (0, 10, 0, 10)), (3, (20, 30, 20, 30))):
        mask = rle.encode(rectangle(*sides))
        track.change(None, Change(t, str(t), 0, "1", 0, 100, 0.8, False, mask))
    track.change(None, Change(4, "4", 0, "1", 0, 0, 0.1, True, None))  # not found there
    content = json.loads(downloads.ytvis_json(session, Steps().job()).read_text())
    masks = content["annotations"][0]["segmentations"]
    assert [t for t, mask in enumerate(masks) if mask] == [0, 1, 3]
    text = downloads.report(session, Steps().job(), "mask_refiner").read_text()
    assert ">2</b><span>masks propagated" in text


def test_the_report_of_work_that_was_stopped(drawn: Session, networks: Networks) -> None:
    sharpen(drawn, networks, Steps(stop_at=2).job())
    text = downloads.report(drawn, Steps().job(), "mask_refiner").read_text()
    assert ">3</b><span>masks refined" in text  # two of the dog, one of the cup


@pytest.mark.parametrize("make", [downloads.ytvis_json, downloads.coco_json, downloads.png_zip])
def test_nothing_to_save(session: Session, make) -> None:
    with pytest.raises(AppError, match="no object to save"):
        make(session, Steps().job())
