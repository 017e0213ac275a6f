"""Scores through the package, and promises of a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.synthetic import write_moving_shapes
from vmt.evaluation.expected import unmet
from vmt.evaluation.scoring import score
from vmt.utils.errors import AnnotationError, ConfigError


def test_the_truth_scores_one_and_numbers_are_flat(tmp_path: Path) -> None:
    path = write_moving_shapes(tmp_path, 2, 3, (48, 64), 0)
    truth = json.loads(path.read_text())
    results = tmp_path / "results.json"
    keys = ("video_id", "category_id", "segmentations")
    entries = [{**{k: a[k] for k in keys}, "score": 0.9} for a in truth["annotations"]]
    results.write_text(json.dumps(entries))
    for source in (path, truth):
        numbers, table = score(source, results, ["tube_mask", "tube_boundary"])
        assert numbers["tube_mask/AP"] == pytest.approx(1.0)
        assert numbers["tube_boundary/AP75"] == pytest.approx(1.0)
        assert "tube_boundary" in table
    entries[0]["segmentations"] = [None] * 3
    results.write_text(json.dumps(entries))
    assert score(path, results, ["tube_mask"])[0]["tube_mask/AP"] < 1.0


def test_class_agnostic_scores_forgive_wrong_classes(tmp_path: Path) -> None:
    path = write_moving_shapes(tmp_path, 1, 3, (48, 64), 0)
    truth = json.loads(path.read_text())
    other = {1: 2, 2: 3, 3: 1}
    entries = [
        {
            "video_id": row["video_id"],
            "category_id": other[row["category_id"]],
            "segmentations": row["segmentations"],
            "score": 0.9,
        }
        for row in truth["annotations"]
        if row["category_id"] == truth["annotations"][0]["category_id"]
    ]
    truth["annotations"] = truth["annotations"][: len(entries)]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(entries))
    for class_agnostic, expected in ((False, 0.0), (True, 1.0)):
        numbers, _ = score(truth, results, ["tube_mask"], class_agnostic=class_agnostic)
        assert numbers["tube_mask/AP"] == pytest.approx(expected)


def test_a_broken_file_is_an_annotation_error(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text("[{}]")
    path = write_moving_shapes(tmp_path, 1, 2, (48, 64), 0)
    with pytest.raises(AnnotationError, match=r"results\.json"):
        score(path, results, ["tube_mask"])


def test_expectations() -> None:
    results = {"val": {"tube_mask/AP": 0.5}}
    assert unmet([["val", "tube_mask/AP", 0.52, 0.02]], results) == []
    (sentence,) = unmet([["val", "tube_mask/AP", 0.6, 0.05]], results)
    assert sentence == "val: tube_mask/AP is 0.5000, expected 0.6 within 0.05."
    (sentence,) = unmet(
        [["val", "tube_mask/AP", 0.4, 0.05]], results
    )  # too good is not as expected
    assert sentence == "val: tube_mask/AP is 0.5000, expected 0.4 within 0.05."
    assert "nan" in unmet([["test", "tube_mask/AP", 0.6, 0.05]], results)[0]
    with pytest.raises(ConfigError, match="tolerance"):
        unmet([["val", 0.5]], results)
