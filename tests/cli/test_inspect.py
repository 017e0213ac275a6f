"""``vmt inspect`` names what a file is and which command takes it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cocoapi_hq import split
from tests.cocoapi_hq.mots.test_tube_frames import scalabel
from tests.cocoapi_hq.tube_cases import annotation, rect, result, truth
from vmt.cli.main import main
from vmt.config.defaults import default_config

BOX = rect(10, 10, 30, 30)


def lines(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Printed findings by name."""
    assert main(["inspect", str(path), *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[14:] for line in printed if line[:1].strip()}


def written(tmp_path: Path, content: Any, name: str = "a.json") -> Path:
    path = tmp_path / name
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_youtube_vis_annotations(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [annotation(1, 1, [BOX, None]), annotation(2, 2, [BOX] * 3, iscrowd=1)]
    del rows[1]["id"]
    data = truth(rows, {1: 2, 2: 3})
    del data["videos"][0]["height"]
    found = lines(written(tmp_path, data, name), capsys)
    assert found["kind"] == "YouTube-VIS annotations"
    assert found["videos"] == "2, 5 frames"
    assert found["classes"] == "2: 1 class 1, 2 class 2"
    assert found["tracks"] == "2, 1 of them crowds"
    assert found["masks"] == "segmentations in 2"
    assert found["missing"] == "height (1 of 2) of videos; id (1 of 2) of annotations"
    assert found["take it with"].startswith("vmt check-annotations")


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [result(1, [BOX], 0.25, 3), result(2, [BOX], 0.75, 10), result(2, [BOX], 0.5, 3)]
    found = lines(written(tmp_path, rows), capsys)
    assert found["kind"] == "YouTube-VIS results"
    assert found["entries"] == "3 of 2 videos"
    assert found["scores"] == "0.250 to 0.750"
    assert found["category ids"] == "10, 3"
    assert found["missing"] == "nothing"
    coco = [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": BOX}]
    assert lines(written(tmp_path, coco), capsys)["kind"] == "COCO results"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"images": [{"id": 1}], "annotations": []}, "COCO images annotations"),
        ({"images": [{"id": 1, "video_id": 4}]}, "COCO with 1 video ids annotations"),
        (scalabel(), "Scalabel frames (BDD100K MOTS)"),
        ({"frames": scalabel()}, "Scalabel frames (BDD100K MOTS)"),
        ({"shapes": [{"label": "dog"}, {}]}, "polygons of one frame, as labelme writes them"),
        ({"format": split.FORMAT, "video_ids": [1, 2]}, "a split: 2 videos of None"),
        ({"videos": [], "annotations": None}, "YouTube-VIS videos without annotations"),
        ([], "an empty list"),
        ([{"a": 1}], "a list of 1 objects with a; nothing here reads it"),
        ({"a": 1}, "JSON of another kind, with the keys a; nothing here reads it"),
        (3, "JSON, a single int; nothing here reads it"),
    ],
)
def test_other_kinds(
    content: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(written(tmp_path, content), capsys)["kind"].startswith(kind)


def test_broken_json_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"videos": [')
    assert main(["inspect", str(path)]) == 2
    assert "it was cut off" in capsys.readouterr().err


def test_a_config_in_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "SOLVER: {MAX_STEPS: 70, BASE_LR: 0.5}\nDATASETS: {TRAIN: [hq_ytvis_train]}\n"
        "MODEL: {BACKBONE: {NAME: swin_large}, REFINER: {NAME: quadtree}}\n"
    )
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "network       VideoMaskTransfiner (refiner quadtree)" in printed
    assert "backbone      swin_large" in printed
    assert "train         hq_ytvis_train" in printed
    assert "test          no data set is named" in printed
    assert "schedule      70 steps, 16 clips a step, rate 0.5" in printed
    assert "\n5 keys differ from the defaults" in printed
    assert "  SOLVER.MAX_STEPS: 70  (default 0)" in printed
    assert "HIDDEN_DIM" not in printed
    assert main(["inspect", str(path), "--all"]) == 0
    everything = yaml.safe_load(capsys.readouterr().out)
    assert everything["SOLVER"]["MAX_STEPS"] == 70
    assert set(everything) == set(default_config())
