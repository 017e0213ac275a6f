"""Folders of masks of real users: order, numbers in names, values, files that lie beside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.real_inputs.conftest import Vmt
from tests.real_inputs.disk import assert_on_its_frame, decode, disk, iou, read_json, read_map

PADDED = {f"{t:05d}.png": t for t in range(6)}


def test_01_unpadded_mask_numbers_video(vmt: Vmt) -> None:
    assert (
        "12 masks refined"
        in vmt("refine", "--masks", "masks", "--video", "clip.mp4", "--output", "out").said
    )
    assert_on_its_frame("out", {f"{t}.png": t for t in range(12)}, frames=12)


def test_03_coco_video_unpadded_names(vmt: Vmt) -> None:
    vmt("convert-annotations", "coco.json", "--images", "frames", "--output", "o.json")
    data = read_json("o.json")
    assert data["videos"][0]["file_names"] == [f"frame_{t}.jpg" for t in range(1, 13)]
    rows = {row["image_id"]: row["segmentation"] for row in read_json("coco.json")["annotations"]}
    got = data["annotations"][0]["segmentations"]
    for t in range(12):  # image ids count as the numbers in the names do
        assert (decode(got[t]) == decode(rows[t + 1])).all()


def test_04_binary_0_255_masks_convert(vmt: Vmt) -> None:
    options = ("--images", "frames", "--output")
    note = "Its only value is 255, which is taken as object."
    assert note in vmt("convert-annotations", "masks", *options, "o.json").said
    (track,) = read_json("o.json")["annotations"]
    for t in range(6):
        drawn = read_map(f"masks/v1/{t:05d}.png")
        assert set(np.unique(drawn)) == {0, 255}
        assert (decode(track["segmentations"][t]) == (drawn == 255)).all()
    assert note in vmt("refine", "--masks", "masks", *options, "out").said
    assert_on_its_frame("out/v1", PADDED)


def test_06_mots_png_16bit(vmt: Vmt) -> None:
    options = ("instances", "--images", "frames", "--output")
    note = "16-bit values are read as class * 1000 + instance: car, pedestrian; 10000 is ignored."
    assert note in vmt("convert-annotations", *options, "o.json").said
    data = read_json("o.json")
    names = {row["id"]: row["name"] for row in data["categories"]}
    drawn = read_map("instances/0002/000003.png")
    assert sorted(set(np.unique(drawn)) - {0}) == [1001, 2003, 10000]
    tracks = {names[row["category_id"]]: row["segmentations"][3] for row in data["annotations"]}
    assert set(tracks) == {"car", "pedestrian"}
    assert (decode(tracks["car"]) == (drawn == 1001)).all()
    assert (decode(tracks["pedestrian"]) == (drawn == 2003)).all()

    assert note in vmt("refine", "--masks", *options, "out").said
    refined = read_map("out/0002/000003.png")
    assert (refined[drawn == 10000] == 10000).all(), "what is ignored is left alone"
    assert set(np.unique(refined)) == {0, 1001, 2003, 10000}


def test_07_macos_dot_underscore(vmt: Vmt) -> None:
    said = vmt("refine", "--masks", "masks", "--images", "frames", "--output", "out").said
    assert "6 masks refined" in said
    assert_on_its_frame("out", PADDED)
    vmt("convert-annotations", "masks_v", "--images", "frames_v", "--output", "o.json")
    data = read_json("o.json")
    assert data["videos"][0]["file_names"] == [f"v1/{t:05d}.jpg" for t in range(6)]
    assert len(data["annotations"]) == 1


def test_10_sam2_per_object_png(vmt: Vmt) -> None:
    drawn = {k: read_map(f"sam/v1/{k}/00002.png") > 0 for k in ("000", "001")}
    note = "v1: Each folder is read as one object."
    for masks, images, out in (("sam/v1", "frames/v1", "a"), ("sam", "frames", "b")):
        assert note in vmt("refine", "--masks", masks, "--images", images, "--output", out).said
    for t in range(6):
        refined = read_map(f"a/000/{t:05d}.png")
        # The given ones have 0.55; a pixel all around a disc of this size is 0.13.
        assert iou(refined > 0, disk(t)) > 0.85
        assert (refined == read_map(f"b/v1/000/{t:05d}.png")).all()
        assert read_map(f"a/001/{t:05d}.png").any()
    assert note in vmt("convert-annotations", "sam", "--images", "frames", "--output", "o").said
    first, second = read_json("o")["annotations"]
    assert (decode(first["segmentations"][2]) == drawn["000"]).all()
    assert (decode(second["segmentations"][2]) == drawn["001"]).all()


@pytest.mark.parametrize("clip", ["clip.mp4", "clip.mkv", "clip.gif"])
def test_45_video_masks_counts(vmt: Vmt, clip: str) -> None:
    which = "say which: --first-number 0 or --first-number 1."
    for masks in ("sparse", "onebased"):
        refused = vmt("refine", "--masks", masks, "--video", clip, "--output", "out")
        assert which in refused.sentence
        assert not Path("out").exists()
    frames = {"sparse": {1: 1, 4: 4}, "onebased": {t + 1: t for t in range(5)}}
    for first, masks in enumerate(("sparse", "onebased")):
        options = ("--video", clip, "--output", f"{masks} out", "--first-number", first)
        vmt("refine", "--masks", masks, *options)
        named = {f"{number:05d}.png": t for number, t in frames[masks].items()}
        assert_on_its_frame(f"{masks} out", named)
    # The number that counts is the one that changes.
    vmt("refine", "--masks", "twonumbers", "--video", clip, "--output", "t")
    assert_on_its_frame("t", {f"cam2_frame{t}_v3.png": t for t in range(5)})


@pytest.mark.parametrize("clip", ["clip.mp4", "clip.mkv", "clip.webm", "clip.gif"])
def test_70_onebased_masks_header_without_count(vmt: Vmt, clip: str) -> None:
    refined = vmt("refine", "--masks", "masks", "--video", clip, "--output", "out")
    assert "6 masks refined" in refined.said
    assert_on_its_frame("out", {f"{t + 1:05d}.png": t for t in range(6)})


def test_72_same_stem_twice(vmt: Vmt) -> None:
    vmt("refine", "--masks", "masks", "--images", "mixed", "--output", "out")
    assert_on_its_frame("out", PADDED)
    vmt("convert-annotations", "masksv", "--images", "mixedv", "--output", "o.json")
    assert read_json("o.json")["videos"][0]["file_names"] == [f"v1/{t:05d}.jpg" for t in range(6)]


def test_74_mask_file_kinds(vmt: Vmt) -> None:
    options = ("--images", "frames", "--output")
    assert "6 masks refined" in vmt("refine", "--masks", "upper", *options, "upper out").said
    assert_on_its_frame("upper out", {f"{t:05d}.PNG": t for t in range(6)})
    vmt("convert-annotations", "upperv", "--images", "framesv", "--output", "o.json")
    assert len(read_json("o.json")["annotations"]) == 1

    coarse = read_map("upper/00003.PNG") > 0
    for kind in ("jpg", "tif", "bmp", "npz"):
        Path(kind).mkdir()
    for suffix in ("jpg", "tif", "bmp"):
        Image.fromarray(np.uint8(coarse)).save(f"{suffix}/00003.{suffix}")
    np.savez_compressed("npz/00003.npz", np.uint8(coarse))
    for suffix in ("tif", "bmp", "npz"):
        assert "1 mask refined" in vmt("refine", "--masks", suffix, *options, "one").said
        path = next(Path("one").iterdir())
        assert path.suffix == f".{suffix}"
        if suffix == "npz":
            with np.load(path) as arrays:
                (refined,) = arrays.values()
        else:
            refined = read_map(path)
        assert iou(refined > 0, disk(3)) > 0.9
        shutil.rmtree("one")

    refused = vmt("refine", "--masks", "jpg", *options, "none")
    assert "JPEG changes the values of pixels, so it cannot hold masks" in refused.sentence
    refused = vmt("refine", "--masks", "perobj", *options, "none")
    assert "00000_1.png: no frame of that name in frames (12 of 12" in refused.sentence
    assert "one file per object and frame is read from a folder per object" in refused.sentence
    assert not Path("none").exists()
