"""Conversion, training and refinement see the same objects in every kind of mask folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from vmt.cli.main import main
from vmt.data.catalog import load_dataset
from vmt.data.mask_files.base import FrameSet
from vmt.data.mask_files.open import MaskOptions, has_frames, open_mask_file

H, W, T = 24, 32, 3


def box(t: int, y: int, size: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((H, W), np.bool_)
    mask[y : y + size, 2 + t : 2 + t + size] = True
    return mask


def labels(t: int, *values: int, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    """Boxes of 6x6, 5x5 and 4x4 pixels with these values."""
    result = np.zeros((H, W), dtype)
    for k, value in enumerate(values):
        result[box(t, 1 + 7 * k, 6 - k)] = value
    return result


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(path)


def write_frames(folder: Path, suffix: str = ".jpg", size: tuple[int, int] = (H, W)) -> None:
    for t in range(T):
        save(folder / f"{t:05d}{suffix}", np.full((*size, 3), 40 * t, np.uint8))


def write_maps(folder: Path, make: Callable[[int], Any], suffix: str = ".png") -> None:
    for t in range(T):
        save(folder / f"{t:05d}{suffix}", make(t))


def colours(t: int) -> npt.NDArray[np.uint8]:
    return np.array([(0, 0, 0), (200, 0, 0), (0, 90, 0)], np.uint8)[labels(t, 1, 2)]


def write_objects(folder: Path) -> None:
    write_maps(folder / "000", lambda t: labels(t, 255, 0))
    write_maps(folder / "1", lambda t: labels(t, 0, 255))


def write_twice(folder: Path) -> None:
    for suffix in (".png", ".bmp"):
        write_maps(folder, lambda t: labels(t, 1), suffix)


def write_gap(folder: Path) -> None:
    write_maps(folder, colours)
    (folder / "00001.png").unlink()


A, B, C = [36] * T, [25] * T, [16] * T
#: kind -> writer of root / "masks", and the areas of its objects, in order
KINDS: dict[str, tuple[Callable[[Path], None], list[list[int]]]] = {
    "grey": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 1, 2)), [A, B]),
    "capitals": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 1), ".PNG"), [A]),
    "bmp": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 3, 9), ".bmp"), [A, B]),
    "tif": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 9, 3), ".tif"), [B, A]),
    "0 and 255": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 255)), [A]),
    "void": (lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 255, 7)), [B]),
    "void in one frame": (
        lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 255, 7 * (t == 1))),
        [[0, 25, 0]],
    ),
    "MOTS": (
        lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 10000, 2003, 1001, dtype="u2")),
        [C, B],
    ),
    "colours": (lambda r: write_maps(r / "masks/v1", colours), [B, A]),
    "folder per object": (lambda r: write_objects(r / "masks/v1"), [A, B]),
}


def areas(tubes: list[list[Any]]) -> list[list[int]]:
    return [[0 if mask is None else rle.area(mask) for mask in tube] for tube in tubes]


def convert(root: Path, *more: str) -> tuple[int, dict[str, Any]]:
    out = root / "out.json"
    argv = ["convert-annotations", str(root / "masks"), "--images", str(root / "images")]
    status = main([*argv, "--output", str(out), *more])
    return status, json.loads(out.read_text()) if out.is_file() else {}


def refined(masks: Path, images: Path) -> list[list[int]]:
    """Areas of the objects that ``vmt refine`` finds."""
    (video,) = open_mask_file(masks, MaskOptions(one_video=has_frames(images))).videos
    frames = FrameSet(str(images), (H, W), tuple(f"{t:05d}" for t in range(T)), T)
    loaded = video.load(frames)
    return np.stack([loaded.at(t).sum((1, 2)) for t in range(T)], 1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_see_the_same(tmp_path: Path, kind: str) -> None:
    write, expected = KINDS[kind]
    write(tmp_path)
    write_frames(tmp_path / "images/v1")
    status, content = convert(tmp_path)
    assert status == 0
    assert content["videos"][0]["file_names"] == [f"v1/{t:05d}.jpg" for t in range(T)]
    tubes = [row["segmentations"] for row in content["annotations"]]
    assert areas(tubes) == expected
    (record,) = load_dataset(f"{tmp_path / 'masks'}@{tmp_path / 'images'}")
    assert areas([list(x.masks) for x in record.tracklets()]) == expected
    # A clip of one frame has no other objects than the video.
    assert areas([list(x.masks) for x in record.tracklets([1])]) == [[tube[1]] for tube in expected]
    assert refined(tmp_path / "masks", tmp_path / "images") == expected


@pytest.mark.parametrize("kind", ["label maps", "folder per object"])
def test_one_video_without_a_folder_of_its_own(tmp_path: Path, kind: str) -> None:
    if kind == "label maps":
        write_maps(tmp_path / "masks", lambda t: labels(t, 1, 2))
    else:
        write_objects(tmp_path / "masks")
    write_frames(tmp_path / "images")
    status, content = convert(tmp_path)
    assert status == 0
    assert content["videos"][0]["file_names"] == [f"{t:05d}.jpg" for t in range(T)]
    assert areas([row["segmentations"] for row in content["annotations"]]) == [A, B]
    assert refined(tmp_path / "masks", tmp_path / "images") == [A, B]


def test_classes_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS["MOTS"][0](tmp_path)
    write_frames(tmp_path / "images/v1")
    status, content = convert(tmp_path)
    assert status == 0
    assert content["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
    assert [row["category_id"] for row in content["annotations"]] == [1, 2]
    assert "car, pedestrian; 10000 is ignored." in capsys.readouterr().out


def test_void_is_named_and_can_be_an_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KINDS["void"][0](tmp_path)
    write_frames(tmp_path / "images/v1")
    assert convert(tmp_path)[0] == 0
    assert "v1: 255 is taken as not annotated (108 pixels; --void none" in capsys.readouterr().out
    _, content = convert(tmp_path, "--void", "none")
    assert areas([row["segmentations"] for row in content["annotations"]]) == [B, A]
    _, content = convert(tmp_path, "--void", "7")
    assert areas([row["segmentations"] for row in content["annotations"]]) == [A]
    assert convert(tmp_path, "--void", "x")[0] == 2


def test_what_255_means_is_one_for_all_videos(tmp_path: Path) -> None:
    write_maps(tmp_path / "masks/v1", lambda t: labels(t, 255))
    write_maps(tmp_path / "masks/v2", lambda t: labels(t, 255, 4))
    for name in ("v1", "v2"):
        write_frames(tmp_path / "images" / name)
    status, content = convert(tmp_path)
    assert status == 0
    found = [(row["video_id"], areas([row["segmentations"]])) for row in content["annotations"]]
    assert found == [(2, [B])]


def blurred(t: int, *values: int) -> npt.NDArray[np.uint8]:
    """As anti-aliasing or resizing leaves label maps: shades between neighbours."""
    image = Image.fromarray(labels(t, *values))
    return np.array(image.resize((2 * W, 2 * H), Image.Resampling.BICUBIC).resize((W, H)))


def shaded(t: int) -> npt.NDArray[np.uint8]:
    """A box of 255 with an edge of 128: void and an object, if values alone decide."""
    result = labels(t, 128)
    result[2:6, 3 + t : 7 + t] = 255
    return result


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "soft edges": (
        lambda r: write_maps(r / "masks/v1", lambda t: blurred(t, 255)),
        "masks/v1: the values .* lie only on edges between other values, as smoothing or resizing",
    ),
    "soft edges of labels": (
        lambda r: write_maps(r / "masks/v1", lambda t: blurred(t, 100, 200)),
        "lie only on edges between other values",
    ),
    "one shade on all edges": (
        lambda r: write_maps(r / "masks/v1", shaded),
        "masks/v1: the values 128 lie only on edges",
    ),
    "another size": (
        lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 1)[:, :-1]),
        "v1/00000.png: is 31x24 pixels, but its frame is 32x24",
    ),
    "no object": (
        lambda r: write_maps(r / "masks/v1", lambda t: labels(t)),
        "not one object with a mask is left",
    ),
    "jpg": (
        lambda r: write_maps(r / "masks/v1", lambda t: labels(t, 255), ".jpg"),
        "v1/00000.jpg: JPEG changes the values of pixels",
    ),
    "two masks of a frame": (
        lambda r: write_twice(r / "masks/v1"),
        "v1: holds 00000.bmp and 00000.png, which are masks of the same frame",
    ),
    "values in a folder per object": (
        lambda r: write_maps(r / "masks/v1/0", lambda t: labels(t, 1, 2)),
        "0/00000.png: holds the values 1, 2, but each folder is of one object",
    ),
    "a frame missing": (
        lambda r: write_gap(r / "masks/v1"),
        "v1: 1 frames have no label map .first: 00001.; add them, or convert with --sparse",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    write, said = BAD[case]
    write(tmp_path)
    write_frames(tmp_path / "images/v1")
    status, content = convert(tmp_path)
    assert (status, content) == (2, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


def test_values_on_edges_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(t: int) -> npt.NDArray[np.uint8]:
        result = labels(t, 8, 0)
        result[1:7, 1 + t] = 4  # between 0 and 8, one pixel wide
        return result

    write_maps(tmp_path / "masks/v1", make)
    write_frames(tmp_path / "images/v1")
    assert convert(tmp_path)[0] == 0
    assert "lie only on edges between others (4; 18 pixels)" in capsys.readouterr().out


def test_thin_objects_are_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Leashes, poles and far objects: nowhere three pixels wide, but not between two others."""

    def make(t: int) -> npt.NDArray[np.uint8]:
        result = labels(t, 9)
        for value in range(1, 6):
            result[10:20, 4 * value + t] = value
        return result

    write_maps(tmp_path / "masks/v1", make)
    write_frames(tmp_path / "images/v1")
    _, content = convert(tmp_path)
    assert areas([row["segmentations"] for row in content["annotations"]]) == [[10] * T] * 5 + [A]
    assert "edges" not in capsys.readouterr().out


def test_objects_that_meta_json_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_maps(tmp_path / "masks/v1", lambda t: labels(t, 1, 2))
    write_frames(tmp_path / "images/v1")
    rows: Any = {"v1": {"objects": {"1": {"category": "dog"}, "3": {"category": "ape"}}}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": rows}))
    assert convert(tmp_path) == (2, {})
    said = capsys.readouterr().err
    assert "v1: object 2 is not among the objects of this video in meta.json (1, 3)" in said
    # Lists without classes, as of validation sets, change nothing.
    rows = {"v1": {"objects": {"1": {"frames": ["00000"]}}}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": rows}))
    assert convert(tmp_path)[1]["categories"] == [{"id": 1, "name": "object"}]
