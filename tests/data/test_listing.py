"""One order of files for every reader of folders, without clutter and masks beside the frames."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io.listing import natural_key
from cocoapi_hq.mots import bitmask_png
from vmt.cli.main import main
from vmt.data.datasets.folders import load_png_folders
from vmt.data.listing import list_frames
from vmt.data.mask_files.open import open_mask_file
from vmt.inference.sources import open_videos
from vmt.utils.errors import VideoError


def picture(path: Path, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def test_natural_order() -> None:
    order = ["1.png", "2.png", "02.PNG", "10.png", "a1b2", "a1b10", "A2b1", "frame_9", "frame_10"]
    order += ["x", "x1", "x²", "x٣"]
    for shuffled in itertools.islice(itertools.permutations(order), 0, 10**6, 40_009):
        assert sorted(shuffled, key=natural_key) == [
            "1.png", "02.PNG", "2.png", "10.png", "a1b2", "a1b10", "A2b1", "frame_9", "frame_10",
            "x", "x1", "x²", "x٣",
        ]  # fmt: skip


def clutter(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("._0.jpg", "._0.png", ".DS_Store", "Thumbs.db", "notes.md", "._0.json"):
        (folder / name).write_bytes(b"\0\5\26\7")
    for name in ("__MACOSX", ".thumbnails", "@eaDir"):
        picture(folder / name / "0.jpg")
        picture(folder / name / "0.png")


def test_every_reader_lists_alike(tmp_path: Path) -> None:
    names = [str(k) for k in range(12)]
    for name in names:
        picture(tmp_path / f"images/v1/{name}.JPG")
        picture(tmp_path / f"masks/v1/{name}.PNG")
    for folder in ("images", "images/v1", "masks", "masks/v1"):
        clutter(tmp_path / folder)
    images, masks = tmp_path / "images", tmp_path / "masks"

    (video,) = open_videos(str(images / "v1"))
    assert [path.stem for path in video().paths] == names
    (video,) = open_videos(str(images / "*" / "*.JPG"))
    assert [path.stem for path in video().paths] == names
    assert list(list_frames(images / "v1")) == names
    (record,) = load_png_folders(masks, images, "x")
    assert record.file_names == tuple(f"v1/{name}.JPG" for name in names)
    (folder,) = open_mask_file(masks).videos
    assert [path.stem for path in folder.files] == names
    (paths,) = bitmask_png.list_bitmasks(masks, "results").values()
    assert [path.stem for path in paths] == names
    assert main(["convert-annotations", str(masks), "--images", str(images), "--output",
                 str(tmp_path / "o.json")]) == 0  # fmt: skip
    (row,) = json.loads((tmp_path / "o.json").read_text())["videos"]
    assert row["file_names"] == [f"v1/{name}.JPG" for name in names]


def test_a_glob_over_folders_is_a_video_per_folder(tmp_path: Path) -> None:
    for video, frame in itertools.product(("v10", "v9"), range(3)):
        picture(tmp_path / f"{video}/{frame}.png")
    found = [video() for video in open_videos(str(tmp_path / "v*" / "*.png"))]
    assert [(video.name, video.num_frames) for video in found] == [("v9", 3), ("v10", 3)]


@pytest.mark.parametrize("mask", ["{}.png", "{}.bmp", "{}_mask.png", "mask-{}.png"])
def test_jpegs_are_the_frames_where_masks_lie_beside_them(tmp_path: Path, mask: str) -> None:
    for k in range(4):
        picture(tmp_path / f"v/{k:05d}.jpg")
        if k < 3:  # a frame without a mask
            picture(tmp_path / "v" / mask.format(f"{k:05d}"))
    assert [path.name for path in list_frames(tmp_path / "v").values()] == [
        f"{k:05d}.jpg" for k in range(4)
    ]
    (video,) = open_videos(str(tmp_path / "v"))
    assert {path.suffix for path in video().paths} == {".jpg"}
    (video,) = open_videos(str(tmp_path / "v" / "*.*"))
    assert {path.suffix for path in video().paths} == {".jpg"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0.jpg", "0.png", "1.png"], "holds 0.jpg and 0.png, which may be the same frame"),
        (["0.jpg", "0.jpeg"], "holds 0.jpeg and 0.jpg"),
        (["0.png", "0.tif"], "holds 0.png and 0.tif"),
        (["0.jpg", "1.jpg", "0b.jpg", "1b.jpg", "0.png"], "holds 0.jpg and 0.png"),
        (["0.png", "0_mask.png", "1.png", "1_mask.png"], "holds 1.png and 1_mask.png"),
        (["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"], "holds a_2.jpg and b_2.jpg"),
    ],
)
def test_two_pictures_of_one_frame_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        picture(tmp_path / name)
    with pytest.raises(VideoError, match=f"{said}.*folders of their own") as error:
        list_frames(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_names_that_only_look_alike_are_frames(tmp_path: Path) -> None:
    names = ["1.jpg", "2.png", "b7-1.jpg", "c7-2.jpg", "x.jpg", "y.jpg"]
    for name in names:
        picture(tmp_path / name)
    assert [path.name for path in list_frames(tmp_path).values()] == names


def test_folders_of_frames_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nowhere: no such folder of frames"):
        list_frames(tmp_path / "nowhere")
    clutter(tmp_path / "v")
    with pytest.raises(VideoError, match=r"v: has no images .*\.jpg"):
        list_frames(tmp_path / "v")
