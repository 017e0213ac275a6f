"""What goes wrong with results of BDD100K MOTS, as the console says it: one sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vmt.cli.main import main

LABELS = "bdd100k/labels/seg_track_20"
Eval = Callable[..., tuple[int, str]]


@pytest.fixture
def eval_mots(capsys: pytest.CaptureFixture[str]) -> Eval:
    """``vmt eval`` on paths; its status and what it says."""

    def run(gt: Path, results: Path, *words: object, metric: str = "bdd_mots") -> tuple[int, str]:
        command = ["eval", "--gt", str(gt), "--results", str(results), "--metric", metric]
        status = main([*command, *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


@pytest.fixture
def truth(tiny_datasets: Path) -> Path:
    return tiny_datasets / LABELS / "rles/val"


@pytest.fixture
def frames(truth: Path) -> list[dict[str, Any]]:
    """The truth as results."""
    found = [
        frame for path in sorted(truth.glob("*.json")) for frame in json.loads(path.read_text())
    ]
    for frame in found:
        frame["labels"] = [x | {"score": 0.9} for x in frame["labels"] if "attributes" not in x]
    return found


@pytest.fixture
def bitmasks(tiny_datasets: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Of the truth, and a copy."""
    gt = tiny_datasets / LABELS / "bitmasks/val"
    return gt, Path(shutil.copytree(gt, tmp_path / "png"))


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_truth_has_full_marks(
    truth: Path, frames: list[Any], tmp_path: Path, eval_mots: Eval
) -> None:
    results = written(tmp_path / "r.json", frames)
    assert eval_mots(truth, results, "--json", tmp_path / "numbers.json")[0] == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())["bdd_mots"]
    assert (numbers["mMOTSA"], numbers["FP"], numbers["FN"]) == (25.0, 0, 0)


def test_frames_that_results_lack(
    truth: Path, frames: list[Any], tmp_path: Path, eval_mots: Eval
) -> None:
    results = written(tmp_path / "r.json", frames[1:])
    status, said = eval_mots(truth, results)
    assert status == 2
    name = frames[0]["name"]
    assert f"lacks frame '{name}' (frameIndex 0) and 0 more of 4; write a frame without" in said
    status, said = eval_mots(truth, results, "--fill-missing-frames")
    assert status == 0
    assert "mMOTSA" in said


def test_classes_and_videos_that_there_are_none_of(
    truth: Path, frames: list[Any], tmp_path: Path, eval_mots: Eval
) -> None:
    other = [frames[0] | {"labels": [frames[0]["labels"][0] | {"category": "ufo"}]}, *frames[1:]]
    status, said = eval_mots(truth, written(tmp_path / "r.json", other))
    assert status == 2
    assert "r.json: [0].labels[0].category is 'ufo'; use one of ['pedestrian'" in said
    status, said = eval_mots(truth, written(tmp_path / "r.json", [frames[0] | {"videoName": "x"}]))
    assert status == 2
    assert "video 'x' (1 in all) is not in the ground truth" in said


def test_bitmasks_that_are_none(bitmasks: tuple[Path, Path], eval_mots: Eval) -> None:
    gt, results = bitmasks
    assert eval_mots(gt, results)[0] == 0
    first, second, *_ = sorted(results.rglob("*.png"))
    pixels = np.array(Image.open(first))
    Image.fromarray(pixels[:-1]).save(first)
    status, said = eval_mots(gt, results)
    assert status == 2
    assert f"{first}: the bitmask is (63, 96) (h, w), but" in said
    Image.fromarray(pixels[..., :3]).save(first)
    assert "is a PNG with bit depth 8 and colour type 2; bitmasks are" in eval_mots(gt, results)[1]
    Image.fromarray(pixels).save(first)
    second.unlink()
    status, said = eval_mots(gt, results)
    assert status == 2
    assert f"lacks frame '{second.name}' and 0 more of 4; write a PNG that is 0" in said


def test_forms_that_do_not_meet(truth: Path, bitmasks: tuple[Path, Path], eval_mots: Eval) -> None:
    gt, results = bitmasks
    status, said = eval_mots(gt, results, metric="frame_ap")
    assert status == 2
    assert "bitmasks have no scores, by which frame AP ranks" in said
    status, said = eval_mots(truth, results)
    assert status == 2
    assert "bitmasks pair with bitmasks by file name" in said
    status, said = eval_mots(gt.parent / "tset", results)
    assert status == 2
    assert "tset" in said


def test_what_is_written_overwrites_nothing(
    truth: Path, frames: list[Any], bitmasks: tuple[Path, Path], tmp_path: Path, eval_mots: Eval
) -> None:
    tubes = written(tmp_path / "results.json", [])
    status, said = eval_mots(truth, tubes, "--bitmasks", bitmasks[1])
    assert status == 2
    assert "holds something; delete it or choose another folder" in said
    both = ["--results", tubes, tubes, "--scalabel", tmp_path / "s.json"]
    status, said = eval_mots(truth, tubes, *both)
    assert status == 2
    assert "s.json: holds one set of results; give one with --results" in said
