"""``vmt refine --propagate``: masks of some frames in, the same file with masks of all out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.cli.test_refine import Shave, shaved
from tests.inference.propagation.clips import H, W, clip, iou
from vmt.cli.main import main
from vmt.data.mask_files.polygons import PolygonCodec
from vmt.inference.video_writer import VideoWriter

T = 5
FRAMES, MASKS = clip([(20, 20 + 5 * t) for t in range(T)], [(80, 120 - 5 * t) for t in range(T)])
#: Shaving a pixel off every frame takes much off in the end; less is asked of these masks.
LEAST = 0.5

pytestmark = pytest.mark.usefixtures("refiner")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "v"
    folder.mkdir(parents=True)
    for t, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{t:05d}.png")
    return folder.parent


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "my.mp4"
    with VideoWriter(path, 10.0, (H, W)) as writer:
        for frame in FRAMES:
            writer.write(frame)
    return path


def run(masks: Path, frames: Path, output: Path, *more: str) -> int:
    where = "--images" if frames.is_dir() else "--video"
    argv = ["refine", "--masks", str(masks), where, str(frames), "--output", str(output)]
    return main([*argv, "--propagate", "--device", "cpu", *more])


def write_ytvis(path: Path) -> dict:
    """The first object in frame 0 alone, the second in frame 3; a crowd in all."""
    names = [f"v/{t:05d}.png" for t in range(T)]
    videos = [{"id": 1, "height": H, "width": W, "length": T, "file_names": names}]
    rows = []
    for n, shown in enumerate(([0], [3], range(T))):
        masks = [rle.encode(MASKS[n % 2, t]) if t in shown else None for t in range(T)]
        row = {"id": n + 1, "video_id": 1, "category_id": 1, "iscrowd": int(n == 2)}
        areas = [m and rle.area(m) for m in masks]
        rows.append(row | {"segmentations": masks, "areas": areas, "bboxes": [None] * T})
    content = {"videos": videos, "annotations": rows, "categories": [{"id": 1, "name": "dog"}]}
    path.write_text(json.dumps(content))
    return content


def test_annotations_get_all_frames(tmp_path: Path, images: Path, capsys) -> None:
    before = write_ytvis(tmp_path / "in.json")
    out = tmp_path / "out.json"
    assert run(tmp_path / "in.json", images, out, "--report", str(tmp_path / "r.html")) == 0
    after = json.loads(out.read_text())
    assert after["annotations"][2] == before["annotations"][2]
    for n, given in ((0, 0), (1, 3)):
        row = after["annotations"][n]
        for t, mask in enumerate(row["segmentations"]):
            assert iou(rle.decode(mask), MASKS[n, t]) > LEAST, (n, t)
            assert row["areas"][t] == rle.area(mask)
            assert row["bboxes"][t] is not None
        assert (rle.decode(row["segmentations"][given]) == shaved(MASKS[n, given])).all()
    assert "2 masks refined and 8 propagated" in capsys.readouterr().out
    log = json.loads((tmp_path / "out.json.changes.json").read_text())
    assert log["settings"]["propagate"] is True
    rows = log["videos"][0]["tracklets"]
    assert [row["masks"] for row in rows] == [1, 1]
    assert list(rows[1]["propagated"]) == ["00000", "00001", "00002", "00004"]
    assert all(0 < sure <= 1 for sure in rows[1]["propagated"].values())
    assert rows[0]["lost_frames"] == {}


def test_one_polygon_file_becomes_a_folder(tmp_path: Path, video: Path) -> None:
    y, x = 20, 30
    corners = [[x, y], [x + 44, y], [x + 44, y + 44], [x, y + 44]]
    about = {"version": "5", "imagePath": "../my/00002.jpg", "imageData": "AAAA"}
    shapes = [{"label": "cup", "points": corners, "group_id": None, "flags": {"mine": True}}]
    (tmp_path / "00002.json").write_text(json.dumps(about | {"shapes": shapes}))
    out = tmp_path / "out"
    assert run(tmp_path / "00002.json", video, out, "--first-number", "0") == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{t:05d}.json" for t in range(T)]
    for t in range(T):
        path = out / f"{t:05d}.json"
        content = json.loads(path.read_text())
        assert content["imagePath"] == f"../my/{t:05d}.jpg"
        assert content["imageData"] == ("AAAA" if t == 2 else None)
        assert iou(PolygonCodec().read(path, (H, W))["cup"], MASKS[0, t]) > LEAST


def test_label_maps_keep_their_kind(tmp_path: Path, images: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    labels = np.zeros((H, W), np.uint8)
    labels[MASKS[0, 1]], labels[MASKS[1, 1]] = 3, 7
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([k % 256 for k in range(768)])
    picture.save(masks / "00001.png")
    picture.putdata(np.where(MASKS[0, 4], 3, 0).ravel().tolist())
    picture.save(masks / "00004.png")
    out = tmp_path / "out"
    assert run(masks, images / "v", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{t:05d}.png" for t in range(T)]
    for t in range(T):
        with Image.open(out / f"{t:05d}.png") as made:
            assert made.mode == "P"
            values = np.array(made)
        assert set(np.unique(values)) == {0, 3, 7}
        for n, value in enumerate((3, 7)):
            assert iou(values == value, MASKS[n, t]) > LEAST, (n, t)


def test_folders_of_objects_get_files_of_their_own(tmp_path: Path, images: Path) -> None:
    for n, t in ((0, 1), (1, 4)):
        folder = tmp_path / "masks" / f"object{n}"
        folder.mkdir(parents=True)
        Image.fromarray(MASKS[n, t].astype(np.uint8) * 255).save(folder / f"{t:05d}.png")
    out = tmp_path / "out"
    assert run(tmp_path / "masks", images / "v", out) == 0
    for n in range(2):
        for t in range(T):
            with Image.open(out / f"object{n}" / f"{t:05d}.png") as made:
                values = np.array(made)
            assert set(np.unique(values)) == {0, 255}
            assert iou(values > 0, MASKS[n, t]) > LEAST, (n, t)


def test_a_run_that_broke_off_goes_on(
    tmp_path: Path, images: Path, refiner: Shave, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_ytvis(tmp_path / "in.json")
    out = tmp_path / "out.json"
    monkeypatch.setattr(
        "vmt.apps.refine.work_folder.WorkFolder.write_output",
        lambda self: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    assert run(tmp_path / "in.json", images, out) == 130
    monkeypatch.undo()
    monkeypatch.setattr(
        "vmt.apps.refine.job.load_refiner", lambda options: pytest.fail("all is done")
    )
    assert run(tmp_path / "in.json", images, out) == 0
    assert "1 video of an earlier run kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--confidence", "maps"], "--confidence maps and --propagate: maps are of masks that"),
        ([], "has masks of single images, which --propagate cannot follow"),
    ],
)
def test_what_cannot_be_propagated(
    more: list[str], said: str, tmp_path: Path, images: Path, capsys
) -> None:
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle.encode(MASKS[0, 0])}
    image = {"id": 1, "file_name": "v/00000.png", "height": H, "width": W}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": [image], "annotations": [row], "categories": []}))
    assert run(path, images, tmp_path / "out.json", *more) == 2
    assert said in capsys.readouterr().err
