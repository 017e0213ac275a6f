"""Four families out of files whose annotators labelled different things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from vmt.data.datasets.coco import load_coco_json
from vmt.data.families import (
    SPACE,
    family_ids,
    join_families,
    part_of,
    scaled,
    unlabelled_families,
)
from vmt.data.mapper import decode_masks
from vmt.utils.errors import AnnotationError

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 4, "name": "motorcycle", "supercategory": "vehicle"},
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 44, "name": "bottle", "supercategory": "kitchen"},
    {"id": 101, "name": "deer", "supercategory": "animal"},
]
PERSON, ANIMAL, VEHICLE, OTHER = SPACE.category_ids


def disc(size: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray:
    yy, xx = np.mgrid[: size[0], : size[1]]
    return (yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 < radius**2


def row(number: int, image: int, category: int, mask: Any, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": crowd,
        "segmentation": mask,
    }  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    """A photo in which all is labelled, but for a crowd of cars, and one with deer alone."""
    photos = tmp_path / "photos"
    photos.mkdir()
    size = (120, 200)
    dog = disc(size, (60, 80), 30)
    image = np.full((*size, 3), 40, np.uint8)
    image[dog] = (10, 200, 10)
    for name in ("b", "a"):
        cv2.imwrite(str(photos / f"{name}.png"), image[..., ::-1])
    square = [[20.0, 10.0, 60.0, 10.0, 60.0, 90.0, 20.0, 90.0]]
    content = {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 200, "height": 120},
            {"id": 5, "file_name": "a.png", "width": 200, "height": 120,
             "annotated_categories": [101]},
        ],
        "annotations": [
            row(1, 9, 18, rle.encode(dog)),
            row(2, 9, 3, rle.encode(disc(size, (20, 20), 9)), crowd=1),
            row(3, 5, 101, square),
            row(4, 9, 44, square),
        ],
        "categories": CATEGORIES,
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path, photos


def test_families_are_supercategories() -> None:
    expected = {1: PERSON, 3: VEHICLE, 4: VEHICLE, 18: ANIMAL, 44: OTHER, 101: ANIMAL}
    assert family_ids(CATEGORIES) == expected


@pytest.mark.parametrize(
    ("labelled", "missing"),
    [
        ("all", []),
        (None, []),
        ([1], [ANIMAL, VEHICLE, OTHER]),
        ([1, 3], [ANIMAL, VEHICLE, OTHER]),
        ([1, 3, 4], [ANIMAL, OTHER]),
        ([18, 101, 44], [PERSON, VEHICLE]),
    ],
)
def test_a_family_is_labelled_where_all_of_it_is(labelled: Any, missing: list[int]) -> None:
    image = {"id": 7} | ({} if labelled is None else {"annotated_categories": labelled})
    content = {"images": [image], "annotations": [], "categories": CATEGORIES}
    assert unlabelled_families(content) == {7: missing}
    content["annotations"] = [row(1, 7, 44, None, crowd=1)]
    assert unlabelled_families(content) == {7: sorted({*missing, OTHER})}


def test_what_a_file_knows_nothing_of_is_not_labelled() -> None:
    dogs = [row for row in CATEGORIES if row["id"] == 18]
    content = {"images": [{"id": 7}], "annotations": [], "categories": dogs}
    assert unlabelled_families(content) == {7: [PERSON, VEHICLE, OTHER]}


def test_a_joined_set_can_be_read(source: tuple[Path, Path], tmp_path: Path) -> None:
    """Twice the same file: photos half as large, masks with them, nothing lost but the crowd."""
    folder = tmp_path / "JPEGImages"
    content = join_families([source, source], folder, 60)
    assert sorted(path.name for path in folder.iterdir()) == [
        "0_a.jpg", "0_b.jpg", "1_a.jpg", "1_b.jpg",
    ]  # fmt: skip
    path = tmp_path / "families.json"
    path.write_text(json.dumps(content))
    data = load_coco_json(path, folder, "families")
    records = [data[k] for k in range(len(data))]
    assert [record.name for record in records] == ["0_a", "0_b", "1_a", "1_b"]
    assert [record.unlabelled for record in records] == [
        (PERSON, ANIMAL, VEHICLE, OTHER), (VEHICLE,),
    ] * 2  # fmt: skip
    assert all(record.size == (60, 100) for record in records)
    whole = records[1].tracklets()
    assert [x.category_id for x in whole] == [ANIMAL, OTHER]
    masks = decode_masks(whole, 1, (60, 100))[:, 0]
    photo = cv2.imread(str(folder / "0_b.jpg"))
    assert abs(int(masks[0].sum()) - np.pi * 15**2) < 10
    assert (photo[..., 1][masks[0]] > 120).mean() > 0.95
    assert (photo[..., 1][~masks[0]] > 120).mean() < 0.02
    assert abs(int(masks[1].sum()) - 20 * 40) < 70


def test_photos_that_are_there_stay(source: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "JPEGImages"
    join_families([source], folder, 60)
    (folder / "0_a.jpg").write_bytes(b"kept")
    join_families([source], folder, 60)
    assert (folder / "0_a.jpg").read_bytes() == b"kept"
    assert not list(folder.glob("*.part.jpg"))


def test_small_photos_are_not_enlarged(source: tuple[Path, Path], tmp_path: Path) -> None:
    content = join_families([source], tmp_path / "JPEGImages", 500)
    assert {(row["height"], row["width"]) for row in content["images"]} == {(120, 200)}


def test_broken_files_are_named(source: tuple[Path, Path], tmp_path: Path) -> None:
    path, photos = source
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 77
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"annotations\[0\].image_id is 77; no such image"):
        join_families([(path, photos)], tmp_path / "JPEGImages", 60)


def test_masks_shrink_as_photos_do() -> None:
    ring = [[0.0, 0.0, 30.0, 0.0, 30.0, 10.0]]
    assert scaled(ring, (100, 200), (50, 50), "here") == [[0.0, 0.0, 7.5, 0.0, 7.5, 5.0]]
    with pytest.raises(AnnotationError, match="here"):
        scaled({"size": [3, 3], "counts": "?"}, (3, 3), (2, 2), "here")


def test_part_of_a_file() -> None:
    content = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"image_id": 1}, {"image_id": 2}, {"image_id": 2}],
        "categories": CATEGORIES,
    }
    part = part_of(content, lambda image: image["id"] == 2)
    assert part["images"] == [{"id": 2}]
    assert part["annotations"] == [{"image_id": 2}] * 2
    assert part["categories"] == CATEGORIES


@pytest.mark.skipif(not (SHARED / "images_more").is_dir(), reason="needs the shared photos")
def test_what_is_labelled_in_the_shared_photos() -> None:
    """Persons alone, one species alone, four categories: what each file says of its images."""
    content = json.loads((SHARED / "images_more/instances.json").read_text())
    missing = list(unlabelled_families(content).values())
    crowds = {row["image_id"] for row in content["annotations"] if row.get("iscrowd")}
    assert missing.count([]) == 46 - len(
        crowds & {row["id"] for row in content["images"] if row["annotated_categories"] == "all"}
    )
    assert sum(ANIMAL in families for families in missing) == 774 - 46
    assert sum(PERSON in families for families in missing) >= 348
