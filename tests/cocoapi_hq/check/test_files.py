"""``check-annotations --fix`` takes the defect away and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import cocoapi_hq
from cocoapi_hq.check.files import check_annotations, check_file, check_results
from cocoapi_hq.io import rle
from tests.cocoapi_hq.tube_cases import H, W, annotation, rect, result, set_at, truth

BOX, OTHER = rect(10, 10, 30, 30), rect(0, 0, 5, 5)
RING = [10, 10, 30, 10, 30, 30, 10, 30]


def sound() -> dict[str, Any]:
    rows = [annotation(1, 1, [BOX, None]), annotation(2, 1, [OTHER, dict(OTHER)], 2)]
    for row in rows:
        del row["areas"]
    return truth(rows, {1: 2})


def mended(data: Any, gt: Any = None) -> tuple[Any, list[str]]:
    """The copy, and the lines."""
    before = copy.deepcopy(data)
    found = check_annotations(data) if gt is None else check_results(data, "r", gt)
    assert data == before, "the input stays as it is"
    return found.mended, [str(defect) for defect in found.defects]


def test_the_documented_keys_are_enough() -> None:
    data = sound()
    assert mended(data) == (data, [])


MASK = "annotations.0.segmentations.0"
MENDS: list[tuple[str, Any, str, Any]] = [
    # What stands there, where, and where the copy holds what instead.
    (MASK, [RING, [1, 1, 2, 2]], MASK, [RING]),
    (MASK, [RING, []], MASK, [RING]),
    (MASK, [[1, 2, 3], RING], MASK, [RING]),
    (MASK, RING, MASK, [RING]),
    (f"{MASK}.counts", f"b{BOX['counts']!r}", MASK, BOX),
    (f"{MASK}.counts", BOX["counts"] + "\n", MASK, BOX),
    ("annotations.1.segmentations.0.counts", "zz", "annotations.1.segmentations.0", None),
    ("annotations.0.category_id", "1", "annotations.0.category_id", 1),
    ("annotations.0.category_id", 1.0, "annotations.0.category_id", 1),
    ("annotations.0.video_id", "1", "annotations.0.video_id", 1),
    ("annotations.0.id", "1", "annotations.0.id", 1),
    ("annotations.0.id", "DELETE", "annotations.0.id", 3),
    ("annotations.0.iscrowd", "1", "annotations.0.iscrowd", 1),
    ("annotations.0.iscrowd", "DELETE", "annotations.0.iscrowd", 0),
    ("annotations.1.category_id", 7, "categories.2", {"id": 7, "name": "category_7"}),
    ("annotations.0.segmentations", [BOX], "annotations.0.segmentations", [BOX, None]),
    ("annotations.0.segmentations", [BOX, None, []], "annotations.0.segmentations", [BOX, None]),
    ("videos.0.height", None, "videos.0.height", H),
    ("videos.0.width", "DELETE", "videos.0.width", W),
    ("videos.0.height", W, "videos.0.height", H),
    ("videos.0.length", "DELETE", "videos.0.length", 2),
    ("videos.0.length", 5, "videos.0.length", 2),
    ("videos.0.id", "1", "videos.0.id", 1),
    ("categories.0.id", "1", "categories.0.id", 1),
    ("annotations.0.score", float("nan"), "annotations.0.score", None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "where", "right"), MENDS)
def test_a_mend_takes_the_defect_away_and_nothing_else(
    path: str, value: Any, where: str, right: Any, tmp_path: Path
) -> None:
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(set_at(sound(), path, value)))
    report = check_file(file)
    assert len(report.defects) == 1, [str(d) for d in report.defects]
    expected = set_at(set_at(sound(), path, value), "info", "x")
    del expected["info"]
    if path == "annotations.1.category_id":
        expected["categories"].append(right)
    else:
        expected = set_at(expected, where, right)
    assert report.mended == expected
    file.write_text(json.dumps(report.mended, allow_nan=False))
    assert check_file(file).defects == []
    cocoapi_hq.evaluate(report.mended, [])


def test_masks_under_the_singular_key_are_found() -> None:
    data = sound()
    data["annotations"][0]["segmentation"] = data["annotations"][0].pop("segmentations")
    copied, lines = mended(data)
    assert copied == sound()
    assert len(lines) == 1
    assert "'segmentations'" in lines[0]


def test_sound_masks_that_fit_nothing_stay_for_a_person_to_decide() -> None:
    small = rect(1, 1, 2, 2, 20, 30)
    odd_size = set_at(sound(), MASK, small)
    copied, lines = mended(odd_size)
    assert copied == odd_size
    assert "left as it is" in lines[0]
    too_long = set_at(sound(), "annotations.0.segmentations", [BOX, None, BOX])
    copied, lines = mended(too_long)
    assert copied == too_long
    assert "left as it is" in lines[0]


def test_a_file_without_categories_keeps_its_annotations() -> None:
    data = sound()
    del data["categories"]
    copied, _ = mended(data)
    assert copied["annotations"] == data["annotations"]
    assert [c["id"] for c in copied["categories"]] == [1, 2]
    cocoapi_hq.evaluate(copied, [])


EMPTY = {"size": [H, W], "counts": [H * W]}
RESULT_MENDS: list[tuple[str, Any, str, Any]] = [
    ("0.segmentations.0", [RING], "0.segmentations.0", rle.from_polygons([RING], H, W)),
    ("0.segmentations.0", EMPTY, "0.segmentations.0", rect(0, 0, 0, 0)),
    ("0.segmentations.0.counts", f"b{BOX['counts']!r}", "0.segmentations.0", BOX),
    ("0.score", "0.5", "0.score", 0.5),
    ("0.category_id", "1", "0.category_id", 1),
    ("0.video_id", 1.0, "0.video_id", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "where", "right"), RESULT_MENDS)
def test_results_are_mended_likewise(path: str, value: Any, where: str, right: Any) -> None:
    rows = [result(1, [BOX, OTHER], 0.5)]
    copied, lines = mended(set_at(rows, path, value), sound())
    assert len(lines) == 1, lines
    assert copied == set_at(rows, where, right)


def test_results_of_ids_from_0_stay_and_are_told() -> None:
    rows = [result(1, [BOX, BOX], 0.5, 0)]
    copied, lines = mended(rows, sound())
    assert copied == rows
    assert "count from 0" in lines[0]
    copied, lines = mended([result(1, [BOX, BOX], 0.5, 9)], sound())
    assert copied
    assert "count from 0" not in lines[0]


def test_polygons_of_results_without_a_known_size_stay(
    tmp_path: Path,
) -> None:
    rows = [result(1, [[RING], BOX], 0.5)]
    found = check_results(rows)
    assert found.mended == rows
    assert len(found.defects) == 1


def test_nothing_is_lost_when_the_copy_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmt.cli.main import main

    file, out = tmp_path / "gt.json", tmp_path / "fixed.json"
    file.write_text(json.dumps(sound()))
    out.write_text("an earlier one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["check-annotations", str(file), "--fix", str(out)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "an earlier one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fixed.json", "gt.json"]
