"""The commands, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq import split
from cocoapi_hq.check.files import check_annotations, check_results
from cocoapi_hq.exceptions import ScoringError
from tests.cocoapi_hq.tube_cases import (
    CLIPS,
    GOLDEN,
    annotation,
    random_set,
    rect,
    result,
    set_at,
    truth,
)
from tests.conftest import load_tool
from vmt.cli.main import main

BOX, SMALL = rect(10, 10, 30, 30), rect(1, 1, 2, 2, 20, 30)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    gt, results = random_set(3)
    paths = tmp_path / "gt.json", tmp_path / "results.json"
    for path, data in zip(paths, (gt, results), strict=True):
        path.write_text(json.dumps(data))
    return paths


def run(*words: object) -> int:
    return main([str(w) for w in words])


# --- vmt eval ------------------------------------------------------------------------------------


def test_eval_prints_a_table_and_writes_json(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert run("eval", "--gt", files[0], "--results", files[1], "--json", out,
               "--per-category", "--per-video") == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "Average Precision" not in printed  # once is enough, in percent
    assert "tube_boundary by category" in printed
    expected = cocoapi_hq.evaluate(*files, per_video=True).to_dict(True, True)
    rows = [line.split() for line in printed.splitlines()]
    (header,) = [row for row in rows if row[:2] == ["tube_mask", "AP"]]
    row = next(row for row in rows[rows.index(header) :] if row[:1] == ["results.json"])
    for column in ("AP", "AP50", "APs", "AR1", "AR100"):
        shown = row[header.index(column)]
        assert shown == f"{100 * expected['tube_mask'][column]:.1f}"
    assert json.loads(out.read_text()) == expected
    assert not list(tmp_path.glob("*.part"))


def test_eval_compares_several_files(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(files[1].read_text())[::2]))
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    assert run("eval", "--gt", files[0], "--results", files[1], other, "--metric", "tube_mask",
               "--json", out, "--html", page, "--resamples", 50, "--jobs", 2) == 0  # fmt: skip
    assert "95% interval" in capsys.readouterr().out
    saved = json.loads(out.read_text())
    assert set(saved["files"]) == {"results.json", "other.json"}
    assert set(saved["comparison"]["tube_mask"]) == {"results.json", "other.json"}
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_eval_says_what_costs_ap(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert run("eval", "--gt", files[0], "--results", files[1], "--errors", "--json", out) == 0
    assert "tube_boundary errors" in capsys.readouterr().out
    saved = json.loads(out.read_text())["tube_mask"]["errors"]
    assert set(saved["counts"]) <= set(saved["dAP"])


def test_eval_options_reach_the_evaluator(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert run("eval", "--gt", files[0], "--results", files[1], "--iou-type", "boundary",
               "--boundary", "paper", "--class-agnostic", "--max-dets", 1, 5,
               "--mask-field", "segmentations", "--lengths", "pad", "--json", out) == 0  # fmt: skip
    expected = cocoapi_hq.evaluate(
        *files, ["tube_boundary"], boundary="paper", class_agnostic=True, max_dets=(1, 5)
    )
    assert json.loads(out.read_text()) == expected.to_dict()


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden data are not beside the repository")
def test_eval_scores_tracks(tmp_path: Path) -> None:
    case, out = GOLDEN / "mots" / "main", tmp_path / "scores.json"
    sources = ("--gt", case / "gt.json", "--results", case / "results.json")
    options = ("--config", case / "config.json", "--metric", "bdd_mots", "hota", "--json", out)
    assert run("eval", *sources, *options) == 0
    page = tmp_path / "report.html"
    assert run("eval", *sources, *options, "--html", page) == 0
    assert "BDD100K MOTS" in page.read_text()
    saved = json.loads(out.read_text())
    assert saved["bdd_mots"]["mMOTSA"] == pytest.approx(29.9030, abs=1e-4)
    assert {"HOTA", "DetA", "AssA"} <= set(saved["hota"])


def test_bad_input_ends_in_one_sentence(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps([result(1, [BOX], float("nan"))]))
    for words in (
        ("--gt", files[0], "--results", broken),
        ("--gt", tmp_path / "none.json", "--results", files[1]),
        ("--gt", files[0], "--results", files[1], "--json", tmp_path / "no" / "x.json"),
        ("--gt", files[0], "--results", files[1], "--jobs", 0),
    ):
        assert run("eval", *words) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("vmt eval: ")


def test_published_command(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    module = load_tool("eval_hqvis")
    assert module.main(["--save-path", str(files[1]), "--gt", str(files[0])]) == 0
    printed = capsys.readouterr().out
    assert "tube_mask" in printed
    assert "tube_boundary" in printed
    assert module.main(["--save-path", str(files[1])]) == 2  # the default place has no file


# --- vmt check-annotations ----------------------------------------------------------------------


def sound() -> dict[str, Any]:
    boxes = [[10, 10, 20, 20], None]
    return truth(
        [
            annotation(1, 1, [BOX, None], bboxes=boxes, height=40, width=60, length=2),
            annotation(2, 1, [None, rect(0, 0, 5, 5)], 2),
        ],
        {1: 2},
    )


GT_DEFECTS = [
    ("videos.0.id", "x", "videos[0].id"),
    ("videos.0.height", None, "videos[0].height"),
    ("videos.0.length", 3, "videos[0].length"),
    ("videos.0.file_names", 3, "videos[0].file_names"),
    ("videos.0.file_names", ["a", "a"], "videos[0].file_names"),
    ("videos.0", 4, "videos[0]"),
    ("categories.1.id", 1, "categories[1].id"),
    ("categories.1.name", "class 1", "categories[1].name"),
    ("categories.1.name", "DELETE", "categories[1].name"),
    ("categories", None, "categories"),
    ("annotations", None, "annotations"),
    ("annotations", 0.5, "annotations"),
    ("videos", 0.5, "videos"),
    ("annotations.0", [], "annotations[0]"),
    ("annotations.1.id", 1, "annotations[1].id"),
    ("annotations.0.id", 0, "annotations[0].id"),
    ("annotations.0.video_id", 8, "annotations[0].video_id"),
    ("annotations.0.category_id", 8, "annotations[0].category_id"),
    ("annotations.0.iscrowd", "DELETE", "annotations[0].iscrowd"),
    ("annotations.0.height", 41, "annotations[0].height"),
    ("annotations.0.length", 9, "annotations[0].length"),
    ("annotations.0.segmentations", "DELETE", "annotations[0].segmentations"),
    ("annotations.0.segmentations", [BOX], "annotations[0].segmentations"),
    ("annotations.0.segmentations", [BOX, None, None], "annotations[0].segmentations"),
    ("annotations.0.segmentations", [None, None], "annotations[0].segmentations"),
    ("annotations.0.segmentations.0", [], "annotations[0].segmentations[0]"),
    ("annotations.0.segmentations.0.counts", "zz", "annotations[0].segmentations[0]"),
    ("annotations.0.segmentations.0", SMALL, "annotations[0].segmentations[0].size"),
    ("annotations.0.segmentations_refined", [BOX], "annotations[0].segmentations_refined"),
    ("annotations.0.areas", [400], "annotations[0].areas"),
    ("annotations.0.areas.0", 300, "annotations[0].areas[0]"),
    ("annotations.0.areas.1", 3, "annotations[0].areas[1]"),
    ("annotations.0.bboxes.0", [10, 10, 20, 30], "annotations[0].bboxes[0]"),
    ("annotations.0.bboxes.0", None, "annotations[0].bboxes[0]"),
    ("annotations.0.occlusion", ["half", None], "annotations[0].occlusion[0]"),
    ("annotations.0.occlusion", [None, None], "annotations[0].occlusion"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "where"), GT_DEFECTS)
def test_defects_of_ground_truth(path: str, value: Any, where: str) -> None:
    assert check_annotations(sound()).defects == []
    report = check_annotations(set_at(sound(), path, value), "gt.json")
    assert where in [d.path for d in report.defects]
    for defect in report.defects:
        assert defect.file == "gt.json"
        assert defect.problem
        assert defect.fix


RESULT_DEFECTS = [
    ("0", 3, "results[0]"),
    ("0.video_id", 8, "results[0].video_id"),
    ("0.video_id", "DELETE", "results[0].video_id"),
    ("0.category_id", 8, "results[0].category_id"),
    ("0.score", float("inf"), "results[0].score"),
    ("0.score", "DELETE", "results[0].score"),
    ("0.segmentations", 3, "results[0].segmentations"),
    ("0.segmentations", [BOX], "results[0].segmentations"),
    ("0.segmentations.0", [[1, 1, 5, 1, 5, 5]], "results[0].segmentations[0]"),
    ("0.segmentations.0.counts", "zz", "results[0].segmentations[0]"),
    ("0.segmentations.0", {"size": [40, 60], "counts": [2400]}, "results[0].segmentations[0]"),
    ("0.segmentations.0", rect(1, 1, 2, 2, 20, 30), "results[0].segmentations[0].size"),
    ("1", result(1, [BOX, BOX], 0.5), "results[1]"),
]


@pytest.mark.parametrize(("path", "value", "where"), RESULT_DEFECTS)
def test_defects_of_results(path: str, value: Any, where: str) -> None:
    good = [result(1, [BOX, BOX], 0.5), result(1, [None, BOX], 0.4, 2)]
    assert check_results(good, truth=sound()).defects == []
    report = check_results(set_at(good, path, value), "r.json", sound())
    assert where in [d.path for d in report.defects]


def test_the_mended_copy_is_sound_and_scores(tmp_path: Path) -> None:
    data = sound()
    for path, value, _ in GT_DEFECTS:
        keys = path.split(".")
        if keys[0] == "annotations" and len(keys) > 2 and keys[1] == "0" and value != "DELETE":
            if keys[2] in ("areas", "bboxes", "occlusion") and len(keys) > 3:
                continue
            data["annotations"].append(
                set_at(data, path, value)["annotations"][0] | {"id": len(data["annotations"])}
            )
    data["annotations"].append(annotation(1, 1, [BOX, BOX]))
    mended = check_annotations(data).mended
    left = check_annotations(mended).defects
    assert {d.problem.split()[0] for d in left} <= {"the", "names", "unknown"}
    for entry in mended["annotations"]:
        entry.pop("occlusion", None)
    cocoapi_hq.evaluate(mended, [])


def test_images_are_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1").mkdir()
    cv2.imwrite(str(tmp_path / "1" / "00000.jpg"), np.zeros((40, 50, 3), np.uint8))
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(sound()))
    assert run("check-annotations", path, "--images", tmp_path) == 1
    printed = capsys.readouterr().out
    assert "videos[0].file_names[0] = [40, 50]: the video says [40, 60]" in printed
    assert "videos[0].file_names[1] = '1/00001.jpg': no such file" in printed
    assert "tracks per video" in printed
    assert run("check-annotations", path) == 0
    assert run("check-annotations", path, "--images", tmp_path / "none") == 2


def test_check_writes_a_mended_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "gt.json", tmp_path / "fixed.json"
    path.write_text(json.dumps(set_at(sound(), "annotations.0.areas.0", 3)))
    assert run("check-annotations", path, "--fix", out) == 1
    assert run("check-annotations", out, "--quiet") == 0
    assert run("check-annotations", path, "--fix", path) == 2
    assert "overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "3", "{}", '{"videos": []}', "[", '"x"'])
def test_check_refuses_other_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert run("check-annotations", path) == 2


def test_statistics_by_hand() -> None:
    half = rect(10, 10, 30, 20)
    gt = truth([annotation(1, 1, [BOX, BOX]), annotation(2, 1, [half, None])], {1: 2, 2: 1})
    numbers = check_annotations(gt).statistics
    assert numbers["tracks per video"] == "0 to 2, mean 1.0"
    assert numbers["visible frames per track"] == "1 to 2, mean 1.5"
    assert numbers["average area per track, pixels"] == "200 to 400, mean 300.0"
    assert numbers["pixels that two tracks share"] == "20.00%"


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the sample clips are not beside the repository")
def test_sample_clips_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    file = CLIPS / "annotations.json"
    assert run("check-annotations", file, "--images", CLIPS / "JPEGImages") == 0
    assert ": ground truth, 0 defects" in capsys.readouterr().out


# --- vmt split ----------------------------------------------------------------------------------


def test_split_draws_and_cuts(files: tuple[Path, Path], tmp_path: Path) -> None:
    made = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, seed in zip(made, (5, 5, 6), strict=True):
        assert run("split", "--draw", 2, "--from", files[0], "--seed", seed, "--output", path) == 0
    assert made[0].read_text() == made[1].read_text()
    drawn = split.read(made[0])
    assert len(drawn.video_ids) == 2
    assert drawn.seed == 5
    folder = tmp_path / "cut"
    assert run("split", made[0], "--cut", *files, "--output", folder) == 0
    gt = json.loads((folder / "gt.json").read_text())
    assert [v["id"] for v in gt["videos"]] != []
    assert {v["id"] for v in gt["videos"]} == set(drawn.video_ids)
    assert {a["video_id"] for a in gt["annotations"]} <= set(drawn.video_ids)
    cocoapi_hq.evaluate(folder / "gt.json", folder / "results.json")


def test_a_frozen_draw_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(truth([], dict.fromkeys(range(1, 21), 1))))
    assert split.draw(path, 5, seed=0).video_ids == (4, 6, 8, 13, 16)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"format": "x"}, {"format": split.FORMAT}, {"format": split.FORMAT, "video_ids": []},
     {"format": split.FORMAT, "video_ids": [2, 1]}, {"format": split.FORMAT, "video_ids": [True]}],
)  # fmt: skip
def test_broken_split_files(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ScoringError):
        split.read(path)


def test_split_misuse(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    assert run("split", "--draw", 99, "--from", files[0], "--output", out) == 2
    assert run("split", "--draw", 1, "--output", out) == 2
    assert run("split", "--output", out) == 2
    assert run("split", "--draw", 1, "--from", files[1], "--output", out) == 2
    assert run("split", "--draw", 1, "--from", files[0], "--output", out) == 0
    assert run("split", out, "--cut", files[0], "--output", files[0].parent) == 2
    other = tmp_path / "other" / "gt.json"
    other.parent.mkdir()
    other.write_text(json.dumps(truth([], {77: 1})))
    assert run("split", out, "--cut", other, "--output", tmp_path / "cut") == 2
