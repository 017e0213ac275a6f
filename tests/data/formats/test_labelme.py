"""labelme folders become training files: who is one object, which frames count, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.data.formats.conftest import H, W, box, corners, tubes
from vmt.cli.main import main


def write(path: Path, *shapes: tuple[Any, ...]) -> None:
    """Shapes of (label, group or None, x, y, w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"label": label, "group_id": group, "points": corners(*place), "shape_type": "polygon"}
        for label, group, *place in shapes
    ]
    path.write_text(json.dumps({"shapes": rows, "imageHeight": H, "imageWidth": W}))


def test_a_video_of_few_annotated_frames(tmp_path: Path, images: Path, convert, capsys) -> None:
    masks = tmp_path / "masks"
    write(
        masks / "v1" / "f_1.json",
        ("dog", None, 1, 1, 4, 3),
        ("dog", None, 10, 1, 5, 3),
        ("cat", 2, 1, 10, 4, 4),
        ("cat", 2, 8, 10, 2, 4),
        ("__ignore__", None, 20, 10, 4, 4),
        ("_background_", None, 2, 11, 2, 2),
    )
    write(masks / "v1" / "f_4.json", ("dog", None, 2, 1, 4, 2))
    write(masks / "v1" / "f_6.json")
    write(masks / "v2" / "f_2.json", ("bird", None, 0, 0, 3, 3))
    status, content = convert(masks, images)
    assert status == 0
    assert [video["file_names"] for video in content["videos"]] == [
        ["v1/f_1.png", "v1/f_4.png", "v1/f_6.png"],
        ["v2/f_2.png"],
    ]
    assert [row["name"] for row in content["categories"]] == ["bird", "cat", "dog"]
    assert sorted(tubes(content)) == [
        (1, "cat", [16 - 4 + 8, None, None]),
        (1, "dog", [12, 8, None]),
        (1, "dog", [15, None, None]),
        (2, "bird", [9]),
    ]
    cat = next(row for row in content["annotations"] if row["category_id"] == 2)
    expected = box(1, 10, 4, 4) & ~box(2, 11, 2, 2) | box(8, 10, 2, 4)
    assert (rle.decode(cat["segmentations"][0]) == expected).all()
    said = capsys.readouterr().out
    assert "8 of 12 frames are not annotated and are no part of the videos (v1, v2)" in said
    assert "1 shapes labelled __ignore__ are no objects" in said
    assert "some frames show several shapes dog: the k-th of a frame is taken for the same" in said
    out = tmp_path / "out.json"
    assert f"--train {out} --train-images {images} --output trained" in said
    assert f"MODEL.LABEL_SPACE {out}" in said
    # What is printed next holds.
    assert main(["check-annotations", str(out), "--images", str(images)]) == 0


def test_files_beside_their_frames(images: Path, convert) -> None:
    write(images / "v1" / "f_2.json", ("dog", None, 1, 1, 4, 3))
    (images / "v1" / "notes.json").write_text("{}")
    for source, folder in ((images / "v1", images / "v1"), (images / "v1", images)):
        status, content = convert(source, folder)
        assert status == 0
        names = content["videos"][0]["file_names"]
        assert names == ["f_2.png" if folder == source else "v1/f_2.png"]
        assert tubes(content) == [(1, "dog", [12])]


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("f_9.json", [("dog", None, 1, 1, 4, 3)], "f_9.json: no frame"),
        ("f_1.json", [("dog", None, 90, 1, 4, 3)], "shapes[0] (dog) lies outside the frame"),
        ("f_1.json", [("void", None, 1, 1, 4, 3)], "holds no object with a mask. v1: 1 shapes"),
    ],
)
def test_messages(
    tmp_path: Path, images: Path, convert, name: str, shapes: Any, said: str, capsys
) -> None:
    write(tmp_path / "masks" / "v1" / name, *shapes)
    status, content = convert(tmp_path / "masks", images)
    assert (status, content) == (2, {})
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_training_names_the_converter(tmp_path: Path, images: Path, capsys) -> None:
    write(tmp_path / "masks" / "v1" / "f_1.json", ("dog", None, 1, 1, 4, 3))
    words = ["--config-file", "configs/quick/seqformer_tiny.yaml", "--eval-only"]
    reference = f"['{tmp_path / 'masks'}@{images}']"
    assert main(["train", *words, "DATASETS.TEST", reference]) == 2
    error = capsys.readouterr().err
    assert "holds labelme files; turn it into YouTube-VIS JSON with vmt convert-annotation" in error


def test_the_k_th_of_a_label_is_one_object_in_pixels(tmp_path: Path, images: Path, convert) -> None:
    for t, x in ((1, 0), (2, 3)):
        write(
            tmp_path / "m" / "v1" / f"f_{t}.json",
            ("dog", None, x, 1, 4, 3),
            ("dog", None, x + 10, 8, 4, 3),
        )
    _, content = convert(tmp_path / "m", images, "--from", "labelme")
    for row, (x, y) in zip(content["annotations"], ((0, 1), (10, 8)), strict=True):
        got = [rle.decode(mask) for mask in row["segmentations"]]
        assert np.array_equal(got, [box(x, y, 4, 3), box(x + 3, y, 4, 3)])
