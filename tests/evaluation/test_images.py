"""Objects of images against COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cocoapi_hq.io import rle
from vmt.evaluation.images import score_images
from vmt.utils.errors import AnnotationError, ConfigError

BOTH = ("image_mask", "image_box")


def block(top: int, left: int, height: int, width: int) -> Any:
    mask = np.zeros((64, 64), bool)
    mask[top : top + height, left : left + width] = True
    return rle.encode(mask)


def annotation(number: int, image: int, category: int, place: Any, crowd: int = 0) -> Any:
    top, left, height, width = place
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": crowd,
        "segmentation": block(*place), "bbox": [left, top, width, height], "area": height * width,
    }  # fmt: skip


def found(image: int, category: int, place: Any, score: float = 0.9) -> Any:
    top, left, height, width = place
    return {
        "image_id": image, "category_id": category, "score": score,
        "segmentation": block(*place), "bbox": [left, top, width, height],
    }  # fmt: skip


A, B, CROWD = (4, 4, 40, 30), (10, 40, 20, 20), (40, 40, 20, 20)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two images: an object each, the second also a crowd; a third without any."""
    rows = [annotation(1, 1, 1, A), annotation(2, 2, 2, B), annotation(3, 2, 1, CROWD, crowd=1)]
    path = tmp_path / "instances.json"
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 64, "width": 64} for k in (1, 2, 3)]
    categories = [{"id": k, "name": str(k)} for k in (1, 2)]
    content = {"images": images, "annotations": rows, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def scores(truth: Path, entries: list[Any], *metrics: str, **options: Any) -> dict[str, float]:
    path = truth.with_name("results.json")
    path.write_text(json.dumps(entries))
    return score_images(truth, path, metrics or BOTH, **options)[0]


RIGHT = [found(1, 1, A), found(2, 2, B)]


def test_the_truth_scores_one_and_what_lies_in_a_crowd_does_not_count(truth: Path) -> None:
    numbers = scores(truth, [*RIGHT, found(2, 1, CROWD, 0.95)])
    assert numbers["image_mask/AP"] == pytest.approx(1.0)
    assert numbers["image_box/AP"] == pytest.approx(1.0)
    assert (numbers["image_mask/APs"], numbers["image_mask/APl"]) == (pytest.approx(1.0), -1)


def test_a_false_object_in_an_image_without_objects_counts(truth: Path) -> None:
    """Precision at the only recall is one half for the first class, one for the second."""
    numbers = scores(truth, [*RIGHT, found(3, 1, A, 0.95)])
    assert numbers["image_mask/AP"] == pytest.approx(0.75)


def test_masks_and_boxes_are_scored_apart(truth: Path) -> None:
    """A mask of the left two thirds: IoU 0.667 meets 4 of 10 thresholds; its box is whole."""
    entries = [RIGHT[0] | {"segmentation": block(4, 4, 40, 20)}, RIGHT[1]]
    numbers = scores(truth, entries)
    assert numbers["image_mask/AP"] == pytest.approx((0.4 + 1) / 2)
    assert numbers["image_mask/AP75"] == pytest.approx(0.5)
    assert numbers["image_box/AP"] == pytest.approx(1.0)


def test_what_is_scored_says_how_large_it_is(truth: Path) -> None:
    """A false object of 800 pixels in a box of 1200: small as a mask, medium as a box."""
    false = found(3, 1, A, 0.95) | {"segmentation": block(4, 4, 40, 20)}
    numbers = scores(truth, [*RIGHT, false])
    assert numbers["image_mask/APm"] == pytest.approx(1.0)
    assert numbers["image_box/APm"] == pytest.approx(0.5)


def test_results_without_boxes_have_no_box_scores(truth: Path) -> None:
    entries = [{k: v for k, v in row.items() if k != "bbox"} for row in RIGHT]
    assert {name.split("/")[0] for name in scores(truth, entries)} == {"image_mask"}


def test_nothing_found_scores_zero(truth: Path) -> None:
    assert scores(truth, [])["image_mask/AP"] == 0


def test_classes_may_count_as_one(truth: Path) -> None:
    wrong = [row | {"category_id": 3 - row["category_id"]} for row in RIGHT]
    assert scores(truth, wrong)["image_mask/AP"] == 0
    assert scores(truth, wrong, class_agnostic=True)["image_mask/AP"] == pytest.approx(1.0)


def test_what_files_may_lack_is_measured_on_the_masks(truth: Path) -> None:
    content = json.loads(truth.read_text())
    for row in content["annotations"][:2]:
        for key in ("area", "bbox", "iscrowd"):
            del row[key]
    truth.write_text(json.dumps(content))
    numbers = scores(truth, RIGHT)
    assert (numbers["image_mask/AP"], numbers["image_box/AP"]) == (pytest.approx(1.0),) * 2
    assert numbers["image_mask/APm"] == pytest.approx(1.0), "1200 pixels"
    del content["annotations"][1]["segmentation"]
    truth.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"annotations\[1\] cannot be scored.*give it a segm"):
        scores(truth, RIGHT)


def test_metrics_of_videos_are_refused(truth: Path) -> None:
    with pytest.raises(ConfigError, match="'tube_mask', a metric of videos; images are scored by"):
        scores(truth, RIGHT, "tube_mask")


def test_the_table_is_in_percent(truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = truth.with_name("results.json")
    path.write_text(json.dumps(RIGHT))
    _, table = score_images(truth, path, BOTH)
    assert table.splitlines()[-1].split()[:4] == ["image_box", "100.0", "100.0", "100.0"]
    assert capsys.readouterr().out == ""


def test_what_is_not_labelled_in_full_is_no_error(truth: Path) -> None:
    """In the first image a result of category 2 is an error, unless that is labelled in part."""
    surest = found(1, 2, A, 0.99)
    assert scores(truth, [*RIGHT, surest])["image_mask/AP"] == pytest.approx(0.75)
    content = json.loads(truth.read_text())
    content["images"][0]["not_exhaustive_category_ids"] = [2]
    truth.write_text(json.dumps(content))
    assert scores(truth, [*RIGHT, surest])["image_mask/AP"] == pytest.approx(1.0)
    # What is labelled there counts as ever: category 1, and matches of category 2.
    missed = scores(truth, [surest, RIGHT[1]])
    assert missed["image_mask/AP"] == pytest.approx(0.5)
    other = found(1, 1, B, 0.99)
    assert scores(truth, [*RIGHT, other])["image_mask/AP"] == pytest.approx(0.75)
    agnostic = scores(truth, [*RIGHT, found(1, 1, B, 0.99)], class_agnostic=True)
    assert agnostic["image_mask/AP"] == pytest.approx(1.0)
