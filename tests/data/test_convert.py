"""Every format comes out as sound YouTube-VIS JSON that holds the masks that went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cocoapi_hq.check.files import check_file
from cocoapi_hq.check.images import OpenedImage
from cocoapi_hq.io import rle
from tests.synthetic import CATEGORIES, moving_shapes
from vmt.cli.main import main
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.images import picture_size
from vmt.data.mapper import decode_masks

SIZE, T = (32, 48), 4


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """``images/v<k>/<t>.jpg`` of two videos."""
    for k in range(2):
        folder = tmp_path / f"images/v{k}"
        folder.mkdir(parents=True)
        for t, frame in enumerate(moving_shapes(T, SIZE, seed=k).frames):
            cv2.imwrite(str(folder / f"{t:06d}.jpg"), frame[..., ::-1])
    return tmp_path / "images"


def coco_video() -> dict[str, Any]:
    images, annotations = [], []
    for k in range(2):
        video = moving_shapes(T, SIZE, seed=k)
        for t in reversed(range(T)):
            image = {"id": 100 + len(images), "video_id": k + 1, "frame_id": t}
            image |= {"file_name": f"v{k}/{t:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
            images.append(image)
            annotations += [
                {
                    "id": len(annotations) + g + 1,
                    "image_id": image["id"],
                    "category_id": video.category_ids[g],
                    "track_id": g,
                    "segmentation": rle.encode(video.masks[g, t]),
                }
                for g in range(2)
                if video.masks[g, t].any()
            ]
    categories = [{"id": k, "name": name} for k, name in enumerate(CATEGORIES, start=1)]
    videos = [{"id": k + 1, "name": f"v{k}"} for k in range(2)]
    return {
        "videos": videos,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def assert_equals_truth(path: Path, images: Path, *, classes: bool) -> None:
    report = check_file(path, images=lambda name: OpenedImage(*picture_size(images / name)))
    assert not report.defects
    data = load_ytvis_json(path, images, "x")
    assert len(data) == 2
    for k in range(2):
        truth, record = moving_shapes(T, SIZE, seed=k), data[k]
        assert len(record) == T
        tracklets = record.tracklets()
        np.testing.assert_array_equal(decode_masks(tracklets, T, SIZE), truth.masks)
        if classes:
            assert [x.category_id for x in tracklets] == list(truth.category_ids)


def convert(source: Path, images: Path, *more: str) -> tuple[int, Path]:
    out = images.parent / "out.json"
    words = [str(source), "--images", str(images), "--output", str(out)]
    return main(["convert-annotations", *words, *more]), out


def test_coco_with_video_ids(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = frames.parent / "coco.json"
    source.write_text(json.dumps(coco_video()))
    status, out = convert(source, frames)
    assert status == 0
    assert_equals_truth(out, frames, classes=True)
    printed = capsys.readouterr().out
    assert "2 videos, 8 frames, 4 annotations; classes circle, square, triangle" in printed


def test_png_folders(frames: Path) -> None:
    masks = frames.parent / "masks"
    for k in range(2):
        (masks / f"v{k}").mkdir(parents=True)
        for t in range(T):
            labels = np.zeros(SIZE, dtype=np.uint8)
            for g, mask in enumerate(moving_shapes(T, SIZE, seed=k).masks[:, t]):
                labels[mask] = g + 1
            cv2.imwrite(str(masks / f"v{k}/{t:06d}.png"), labels)
    status, out = convert(masks, frames)
    assert status == 0
    assert_equals_truth(out, frames, classes=False)
    (masks / "v1/000002.png").unlink()
    assert convert(masks, frames)[0] == 2
    status, out = convert(masks, frames, "--sparse")
    assert status == 0
    assert len(load_ytvis_json(out, frames, "x")[1]) == T - 1


def test_mots_text(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = frames.parent / "texts"
    texts.mkdir()
    for k in range(2):
        lines = [
            f"{t} {1000 + g} {g + 1} {SIZE[0]} {SIZE[1]} {rle.encode(mask)['counts']}"
            for g, masks in enumerate(moving_shapes(T, SIZE, seed=k).masks)
            for t, mask in enumerate(masks)
            if mask.any()
        ]
        lines.append(f"0 10000 10 {SIZE[0]} {SIZE[1]} 0PP1")
        (texts / f"v{k}.txt").write_text("\n".join(lines) + "\n\n")
    status, out = convert(texts, frames)
    assert status == 0
    assert "note: 2 regions to ignore (class 10) are left out." in capsys.readouterr().out
    assert_equals_truth(out, frames, classes=False)
    assert load_ytvis_json(out, frames, "x").categories == {1: "car", 2: "pedestrian"}


def test_scalabel(frames: Path) -> None:
    content = [
        {
            "videoName": f"v{k}",
            "name": f"{t:06d}.jpg",
            "frameIndex": t,
            "labels": [
                {"id": str(g), "category": "car", "rle": dict(rle.encode(mask))}
                for g, mask in enumerate(moving_shapes(T, SIZE, seed=k).masks[:, t])
                if mask.any()
            ],
        }
        for k in range(2)
        for t in range(T)
    ]
    source = frames.parent / "labels.json"
    source.write_text(json.dumps(content))
    status, out = convert(source, frames)
    assert status == 0
    assert_equals_truth(out, frames, classes=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].pop("video_id"), "images[0] has no 'video_id'"),
        (lambda c: c["images"][1].update(height=9), "video 1 have the sizes [(9, 48), (32, 48)]"),
        (lambda c: c["annotations"][0].pop("track_id"), "annotations[0] has no 'track_id'; it"),
        (lambda c: c["annotations"][0].update(image_id=5), "annotations[0].image_id is 5; no such"),
        (
            lambda c: c["annotations"][1].update(
                track_id=0, category_id=c["annotations"][0]["category_id"]
            ),
            "annotations[1]: track 0 has two masks in one image",
        ),
        (lambda c: c["annotations"][0].update(category_id=None), "annotations[0].category_id is"),
        (lambda c: c["annotations"].insert(0, 4), "annotations[0] is 4; give an object"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [2, 2], "counts": "04"}),
            "a mask has size [2, 2], but the frames of video v0 are [32, 48]",
        ),
        (lambda c: c["annotations"][0].update(segmentation="x"), "track 0: 'x' is no mask"),
        (lambda c: c.pop("categories"), "has no list 'categories'"),
    ],
)
def test_messages_of_coco(
    frames: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco_video()
    change(content)
    source = frames.parent / "coco.json"
    source.write_text(json.dumps(content))
    status, out = convert(source, frames, "--from", "coco-video")
    assert status == 2
    assert not out.exists()
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 1 1 32 48", "v0.txt:1: '0 1 1 32 48' is not 'frame id class height width rle'"),
        ("0 1 3 32 48 PP1", "v0.txt:1: class 3 is neither 1 (car) nor 2 (pedestrian)"),
        ("77 1 1 32 48 PP1", "v0.txt:1: there is no image with the number 77"),
        ("0 1 1 32 48 04", "the runs cover 4 pixels, but size [32, 48] has 1536"),
    ],
)
def test_messages_of_mots_text(
    frames: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = frames.parent / "v0.txt"
    source.write_text(line)
    assert convert(source, frames)[0] == 2
    assert message in capsys.readouterr().err


def test_messages_of_the_command(
    frames: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, images, message in (
        (frames.parent / "none", frames, "none: no such file or folder"),
        (shapes, frames / "none", "no such folder; --images is the folder of frames"),
        (shapes, frames, "is ytvis already; nothing to convert"),
        (frames.parent, frames, "holds no masks of a known kind"),
    ):
        status, _ = convert(source, images)
        assert status == 2
        assert message in capsys.readouterr().err
    bad = frames.parent / "bad.json"
    bad.write_text("{")
    assert convert(bad, frames)[0] == 2
    assert "not valid JSON" in capsys.readouterr().err
    words = [str(bad), "--images", str(frames), "--output", str(bad)]
    assert main(["convert-annotations", *words]) == 2
    assert "would overwrite the source" in capsys.readouterr().err


def _first_video(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [image for image in content["images"] if image["video_id"] == 1]


@pytest.mark.parametrize("ids", ["unpadded names", "text", "float", "frame_number"])
def test_frames_of_coco_come_in_order_of_time(frames: Path, ids: str) -> None:
    content = coco_video()
    for image in content["images"]:
        t = image.pop("frame_id")
        number = 8 + t  # 8, 9, 10, 11
        if ids == "unpadded names":
            name = f"v{image['video_id'] - 1}/frame_{number}.jpg"
            (frames / image["file_name"]).rename(frames / name)
            image["file_name"] = name
        image |= {
            "text": {"frame_id": str(number)},
            "float": {"frame_id": number - 0.5},
            "frame_number": {"frame_number": number, "frame_id": None},
        }.get(ids, {})
    source = frames.parent / "coco.json"
    source.write_text(json.dumps(content))
    status, out = convert(source, frames)
    assert status == 0
    video = json.loads(out.read_text())["videos"][0]
    if ids == "unpadded names":
        assert video["file_names"] == [f"v0/frame_{k}.jpg" for k in (8, 9, 10, 11)]
    else:
        assert video["file_names"] == [f"v0/{t:06d}.jpg" for t in range(T)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "video 1: image 'v0/000003.jpg' has no 'frame_id', which others have"),
        ("frame_3", "has the frame_id 'frame_3', which is no number"),
        (True, "has the frame_id True, which is no number"),
        ("nan", "has the frame_id 'nan', which is no number"),
        (2, "images 'v0/000003.jpg' and 'v0/000002.jpg' both have the frame_id 2"),
    ],
)
def test_frame_ids_that_give_no_order(
    frames: Path, value: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco_video()
    _first_video(content)[0]["frame_id"] = value
    source = frames.parent / "coco.json"
    source.write_text(json.dumps(content))
    status, out = convert(source, frames)
    assert (status, out.exists()) == (2, False)
    assert message in capsys.readouterr().err


def one_track(*rows: dict[str, Any]) -> dict[str, Any]:
    """Four frames of v0; rows say what differs from a 3 x 3 box in the frame of their place."""
    ring = [2, 2, 5, 2, 5, 5, 2, 5]
    images = [
        {"id": t, "video_id": 1, "file_name": f"v0/{t:06d}.jpg", "height": 32, "width": 48}
        for t in range(T)
    ]
    base = {"category_id": 1, "track_id": 5, "segmentation": [ring], "iscrowd": 0}
    annotations = [{"id": k + 1, "image_id": k % T} | base | row for k, row in enumerate(rows)]
    categories = [{"id": 1, "name": "ball"}, {"id": 2, "name": "disk"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def converted(frames: Path, content: dict[str, Any]) -> list[tuple[int, list[int | None]]]:
    """Category and pixels per frame of what comes out."""
    source = frames.parent / "one.json"
    source.write_text(json.dumps(content))
    status, out = convert(source, frames)
    assert status == 0
    rows = json.loads(out.read_text())["annotations"]
    return [
        (row["category_id"], [mask and rle.area(mask) for mask in row["segmentations"]])
        for row in rows
    ]


def test_crowds_are_no_objects(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = {"iscrowd": 1, "track_id": 6}
    content = one_track({}, crowd, {}, {}, crowd | {"image_id": 0, "track_id": None})
    assert converted(frames, content) == [(1, [9, None, 9, 9])]
    assert "note: 2 crowd regions (iscrowd) are left out." in capsys.readouterr().out
    source = frames.parent / "one.json"
    source.write_text(json.dumps(one_track(crowd, crowd)))
    status, _ = convert(source, frames)
    assert status == 2
    assert "all 2 annotations are marked as crowd (iscrowd 1)" in capsys.readouterr().err


def test_rows_of_a_box_alone(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = one_track({}, {"segmentation": []}, {"segmentation": None}, {})
    del content["annotations"][2]["segmentation"]
    assert converted(frames, content) == [(1, [9, None, None, 9])]
    assert "note: 2 annotations without a mask (a box only) are left" in capsys.readouterr().out
    source = frames.parent / "one.json"
    source.write_text(json.dumps(one_track({"segmentation": []})))
    assert convert(source, frames)[0] == 2
    assert "no annotation has a mask (0 crowd regions, 1 with a box" in capsys.readouterr().err


def test_a_track_has_one_class(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"category_id": 2}
    source = frames.parent / "one.json"
    source.write_text(json.dumps(one_track({}, {}, {}, other)))
    status, _ = convert(source, frames)
    assert status == 2
    said = capsys.readouterr().err
    assert "one.json: track 5 of video 1 is ball in 3 frames and disk in 1 frames" in said
    # Both in one image: tracks are counted class by class.
    content = one_track({}, {}, {}, other, other | {"image_id": 0})
    assert converted(frames, content) == [(1, [9, 9, 9, None]), (2, [9, None, None, 9])]
    assert "note: tracks are counted class by class (5 stand" in capsys.readouterr().out


def test_rings_that_enclose_nothing(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = [2, 2, 5, 2, 5, 5, 2, 5]
    content = one_track({"segmentation": [ring, [7, 7, 9, 9]]}, {"segmentation": ring})
    assert converted(frames, content) == [(1, [9, 9, None, None])]
    said = capsys.readouterr().out
    assert "1 ring of fewer than three points or without area encloses nothing" in said
    assert "track 5, frame 0[1]" in said
    source = frames.parent / "one.json"
    source.write_text(json.dumps(one_track({"segmentation": [[v + 90 for v in ring]]})))
    assert convert(source, frames)[0] == 2
    assert "lies outside the frame of 48x32 pixels" in capsys.readouterr().err


def test_objects_without_a_pixel(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = rle.encode(np.zeros(SIZE, bool))
    content = one_track({}, {"track_id": 9, "segmentation": dict(empty)})
    assert converted(frames, content) == [(1, [9, None, None, None])]
    assert "note: 1 objects without a pixel in any frame are left" in capsys.readouterr().out
    source = frames.parent / "one.json"
    source.write_text(json.dumps(one_track({"segmentation": dict(empty)})))
    status, _ = convert(source, frames)
    assert status == 2
    assert "not one object with a mask is left to write" in capsys.readouterr().err
