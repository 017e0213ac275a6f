from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.synthetic import moving_shapes
from vmt.data.clip_sampler import build_sampler
from vmt.data.datasets.coco import load_coco_json
from vmt.data.mapper import ClipMapper, decode_masks
from vmt.data.pseudo_clip import camera_path
from vmt.data.transforms import Compose
from vmt.structures.frame_targets import frame_targets
from vmt.utils.errors import AnnotationError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of 32x48; the third has no object."""
    folder = tmp_path / "JPEGImages"
    folder.mkdir()
    rows, annotations = [], []
    for k in range(3):
        video = moving_shapes(1, (32, 48), seed=k)
        cv2.imwrite(str(folder / f"{k}.jpg"), video.frames[0])
        rows.append({"id": 10 + k, "file_name": f"{k}.jpg", "height": 32, "width": 48})
        if k < 2:
            annotations += [
                {
                    "id": len(annotations) + g,
                    "image_id": 10 + k,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentation": rle.encode(video.masks[g, 0]),
                }
                for g, category in enumerate(video.category_ids)
                if video.masks[g, 0].any()
            ]
    categories = [{"id": k, "name": name} for k, name in enumerate("abc", start=1)]
    path = tmp_path / "instances.json"
    content = {"images": rows, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def load(path: Path, **kwargs: Any) -> Any:
    return load_coco_json(path, path.parent / "JPEGImages", "images", **kwargs)


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_stills_with_their_masks(images: Path) -> None:
    data = load(images)
    assert (len(data), list(data.num_frames())) == (2, [1, 1])
    assert data.categories == {1: "a", 2: "b", 3: "c"}
    for k in range(2):
        record, truth = data[k], moving_shapes(1, (32, 48), seed=k)
        assert record.still
        assert (record.id, record.size) == (10 + k, (32, 48))
        assert record.frame_paths[0].is_file()
        masks = decode_masks(record.tracklets([0]), 1, record.size)
        np.testing.assert_array_equal(masks, truth.masks)


def test_crowds_are_dropped_and_refined_masks_taken(images: Path) -> None:
    refined = [[0, 0, 9, 0, 9, 9, 0, 9]]

    def change(content: Any) -> None:
        content["annotations"][0]["segmentation_refined"] = refined
        content["annotations"][1]["iscrowd"] = 1

    edit(images, change)
    (tracklet,) = load(images)[0].tracklets()
    assert tracklet.masks == (refined,)
    assert load(images, mask_key="segmentation")[0].tracklets()[0].masks != (refined,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "has no list 'images'; it is no COCO instance file"),
        (lambda c: c["images"][1].update(id=10), r"images\[1\].id 10 stands twice"),
        (lambda c: c["images"][0].pop("height"), r"images\[0\].height is None; give pixels"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\].file_name is None"),
        (lambda c: c["images"].insert(0, 3), r"images\[0\] is 3; give an object with an id"),
        (
            lambda c: c["annotations"][0].update(image_id=99),
            r"annotations\[0\].image_id is 99; no such image",
        ),
        (lambda c: c["annotations"][0].pop("category_id"), r"annotations\[0\].category_id is None"),
        (lambda c: c["annotations"].insert(0, "x"), r"annotations\[0\] is 'x'; give an object"),
        (lambda c: c.update(annotations=[]), "no image has an object with a mask"),
    ],
)
def test_messages(images: Path, change: Any, message: str) -> None:
    edit(images, change)
    with pytest.raises(AnnotationError, match=message):
        load(images)


def test_real_images(shared_data: Path) -> None:
    data = load_coco_json(
        shared_data / "images/instances.json", shared_data / "images/JPEGImages", "images"
    )
    assert 140 < len(data) <= 151
    total = 0
    for k in range(0, len(data), 25):
        masks = decode_masks(data[k].tracklets(), 1, data[k].size)
        total += len(masks)
        assert masks.any(axis=(1, 2, 3)).all()
    assert total > 10


def test_categories_that_are_not_labelled_in_full(images: Path) -> None:
    """From the file to the targets of a clip; of categories without a label nothing is said."""

    def change(content: Any) -> None:
        content["images"][0]["not_exhaustive_category_ids"] = [3, 1, 9]

    edit(images, change)
    data = load(images)
    assert [data[k].unlabelled for k in range(2)] == [(3, 1, 9), ()]
    mapper = ClipMapper(2, build_sampler("range", 3), camera_path, Compose([]))
    label_of = {1: 4, 2: 5, 3: 0}
    for record, labels in ((data[0], (0, 4)), (data[1], ())):
        sample = mapper(record, 0, label_of, np.random.default_rng(0))
        assert sample is not None
        targets = sample["targets"]
        assert targets.unlabelled == labels
        assert [frame.unlabelled for frame in frame_targets([targets], (32, 48))] == [labels] * 2
    edit(images, lambda content: content["images"][0].update(not_exhaustive_category_ids="1"))
    with pytest.raises(AnnotationError, match=r"images\[0\].not_exhaustive_category_ids is '1'"):
        load(images)
