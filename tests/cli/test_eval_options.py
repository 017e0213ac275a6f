"""Every option of ``vmt eval`` changes what it says it changes, typed as a person types it."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cocoapi_hq.analysis.bootstrap import draw_weights
from cocoapi_hq.io import rle
from tests.cocoapi_hq.tube_cases import H, W, annotation, rect, result, truth
from vmt.cli.main import main

BOX, OTHER = rect(10, 10, 30, 30), rect(40, 0, 50, 10)


def run(tmp_path: Path, gt: Any, results: Any, *words: object, status: int = 0) -> dict[str, Any]:
    """What ``vmt eval ... --json`` writes; several result files as a dict of name -> entries."""
    files = results if isinstance(results, dict) else {"r.json": results}
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    out = tmp_path / "scores.json"
    out.unlink(missing_ok=True)
    command = ["eval", "--gt", tmp_path / "gt.json", "--json", out, *words]
    command += ["--results", *(tmp_path / name for name in files)]
    assert main([str(word) for word in command]) == status
    if status:
        assert not out.exists()
        return {}
    scores: dict[str, Any] = json.loads(out.read_text())
    return scores


def test_metric_and_iou_type(tmp_path: Path) -> None:
    gt, dt = truth([annotation(1, 1, [BOX])], {1: 1}), [result(1, [BOX], 1.0)]
    assert set(run(tmp_path, gt, dt)) == {"tube_mask", "tube_boundary"}
    assert set(run(tmp_path, gt, dt, "--metric", "hota", "tube_mask")) == {"hota", "tube_mask"}
    assert set(run(tmp_path, gt, dt, "--iou-type", "boundary")) == {"tube_boundary"}
    assert set(run(tmp_path, gt, dt, "--iou-type", "segm")) == {"tube_mask"}


def test_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, dt = truth([annotation(1, 1, [BOX, BOX])], {1: 2}), [result(1, [BOX], 1.0)]
    run(tmp_path, gt, dt, status=2)
    assert "--lengths cut" in capsys.readouterr().err
    assert run(tmp_path, gt, dt, "--lengths", "cut")["tube_mask"]["AP"] == pytest.approx(1.0)
    # The second frame counts as missed: IoU 1/2 reaches one of ten thresholds.
    assert run(tmp_path, gt, dt, "--lengths", "pad")["tube_mask"]["AP"] == pytest.approx(0.1)
    run(tmp_path, gt, dt, "--lengths", "refuse", status=2)


def test_min_score(tmp_path: Path) -> None:
    gt = truth([annotation(1, 1, [BOX, BOX])], {1: 2})
    weak = [result(1, [BOX, None], 0.2), result(1, [OTHER, BOX], 0.6)]
    words = ("--metric", "hota", "tracklet_quality")
    both = run(tmp_path, gt, weak, *words)
    one = run(tmp_path, gt, weak, *words, "--min-score", 0.5)
    # Two true and one false mask, two masks of the object: 2 / (2 + 3 - 2); then 1 / (2 + 2 - 1).
    assert both["hota"]["DetA"] == pytest.approx(2 / 3)
    assert one["hota"]["DetA"] == pytest.approx(1 / 3)
    # The weak result has the better tube IoU, 1/2, and one perfect frame.
    assert both["tracklet_quality"]["tracklets"][0]["result"] == 0
    assert one["tracklet_quality"]["tracklets"][0]["result"] == 1
    assert run(tmp_path, gt, weak, *words, "--min-score", 0.9)["hota"]["DetA"] == 0
    # An equal score stays.
    assert run(tmp_path, gt, weak, *words, "--min-score", 0.6)["hota"] == one["hota"]


def test_boundary(tmp_path: Path) -> None:
    hollow = np.zeros((H, W), bool)
    hollow[10:30, 10:30] = True
    hollow[13:27, 13:27] = False
    gt, dt = truth([annotation(1, 1, [BOX])], {1: 1}), [result(1, [rle.encode(hollow)], 1.0)]
    # 72 pixels of diagonal: one pixel of boundary. Mask IoU 204 / 400 = 0.51; boundaries of 76
    # pixels and of 76 + 60 share 76: 0.559.
    official, paper = (
        run(tmp_path, gt, dt, "--boundary", rule)["tube_boundary"]["AP"]
        for rule in ("official", "paper")
    )
    assert (official, paper) == (pytest.approx(0.1), pytest.approx(0.2))
    assert run(tmp_path, gt, dt)["tube_boundary"]["AP"] == pytest.approx(0.1)


def test_mask_field_and_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = annotation(1, 1, [BOX], segmentations_refined=[OTHER])
    gt, dt = truth([row], {1: 1}), [result(1, [OTHER], 1.0)]

    def ap(*words: str) -> tuple[float, float]:
        scores = run(tmp_path, gt, dt, *words)
        return round(scores["tube_mask"]["AP"]), round(scores["tube_boundary"]["AP"])

    assert ap() == ap("--mask-field", "auto") == ap("--protocol", "hq_ytvis") == (1, 1)
    assert ap("--mask-field", "segmentations_refined", "--protocol", "ytvis_2021") == (1, 1)
    assert ap("--mask-field", "segmentations") == ap("--protocol", "ytvis_2019") == (0, 0)
    # The boundary score is a minimum, and the mask term reads the coarse masks.
    assert ap("--mask-field", "mixed") == (0, 0)
    assert ap("--mask-field", "mixed", "--boundary", "paper") == (0, 1)
    run(tmp_path, gt, dt, "--protocol", "ovis", status=2)
    assert "occlusion" in capsys.readouterr().err
    gt["annotations"][0]["occlusion"] = ["slight_occlusion"]
    found = run(tmp_path, gt, dt)["tube_mask"]  # the field alone chooses the protocol
    assert found["APlight"] == found["APmedium"] == 0.0
    assert found["APheavy"] == -1.0
    gt["annotations"].append(annotation(2, 1, [BOX]))
    run(tmp_path, gt, dt, status=2)
    assert "some annotations carry 'occlusion' and some do not" in capsys.readouterr().err
    gt["annotations"].pop()
    assert "APlight" not in run(tmp_path, gt, dt, "--protocol", "ytvis_2019")["tube_mask"]


def test_max_dets_and_class_agnostic(tmp_path: Path) -> None:
    gt = truth([annotation(1, 1, [BOX]), annotation(2, 1, [OTHER])], {1: 1})
    dt = [result(1, [BOX], 0.9), result(1, [OTHER], 0.8)]
    assert run(tmp_path, gt, dt)["tube_mask"]["AP"] == pytest.approx(1.0)
    found = run(tmp_path, gt, dt, "--max-dets", 1)["tube_mask"]
    assert found["AP"] == pytest.approx(51 / 101)  # recall 0 to 0.5
    assert found["AR1"] == 0.5
    assert "AR10" not in found
    other = [row | {"category_id": 2} for row in dt]
    assert run(tmp_path, gt, other)["tube_mask"]["AP"] == 0.0
    assert run(tmp_path, gt, other, "--class-agnostic")["tube_mask"]["AP"] == pytest.approx(1.0)


def test_per_video_and_per_category(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = truth([annotation(1, 1, [BOX]), annotation(2, 2, [BOX], 2)], {1: 1, 2: 1})
    dt = [result(1, [BOX], 1.0)]
    plain = run(tmp_path, gt, dt, "--metric", "tube_mask")["tube_mask"]
    assert {"per_video", "per_category"}.isdisjoint(plain)
    assert "by category" not in capsys.readouterr().out
    found = run(tmp_path, gt, dt, "--metric", "tube_mask", "--per-video")["tube_mask"]
    # The video without results counts as missed, here and in the whole.
    assert {k: round(v["AP"], 6) for k, v in found["per_video"].items()} == {"1": 1.0, "2": 0.0}
    assert found["AP"] == pytest.approx(0.5)
    found = run(tmp_path, gt, dt, "--metric", "tube_mask", "--per-category")["tube_mask"]
    assert found["per_category"]["class 1"]["AP"] == pytest.approx(1.0)
    assert found["per_category"]["class 2"]["AP"] == 0.0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["class", "1", "100.0", "100.0", "100.0"] in [row[:5] for row in rows]


def test_errors(tmp_path: Path) -> None:
    gt = truth([annotation(1, 1, [BOX])], {1: 1})
    dt = [result(1, [BOX], 0.5), result(1, [OTHER], 0.9)]
    assert "errors" not in run(tmp_path, gt, dt)["tube_mask"]
    found = run(tmp_path, gt, dt, "--errors")["tube_mask"]["errors"]
    assert found["counts"]["background"] == 1
    # The right one comes second: precision 1/2 at every recall; without the other, 1.
    assert found["AP"] == pytest.approx(0.5)
    assert found["dAP"]["background"] == pytest.approx(0.5)


def test_html_and_images(tmp_path: Path) -> None:
    gt, dt = truth([annotation(1, 1, [BOX])], {1: 1}), [result(1, [rect(12, 10, 30, 30)], 1.0)]
    frame = tmp_path / "images" / "1" / "00000.jpg"
    frame.parent.mkdir(parents=True)
    cv2.imwrite(str(frame), np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8))
    page = tmp_path / "report.html"
    run(tmp_path, gt, dt, "--html", page)
    without = page.read_text()
    run(tmp_path, gt, dt, "--html", page, "--images", tmp_path / "images")
    assert without.startswith("<!DOCTYPE html>")
    assert len(page.read_text()) > len(without)  # the noise of the frame is in it


def test_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [annotation(v, v, [BOX]) for v in (1, 2, 3)]
    gt = truth(rows, {1: 1, 2: 1, 3: 1})
    dt = [result(v, [BOX], 0.5) for v in (1, 2)]
    asked: list[str | None] = []
    real = multiprocessing.get_context

    def spy(method: str | None = None) -> Any:
        asked.append(method)
        return real(method)

    monkeypatch.setattr(multiprocessing, "get_context", spy)
    alone = run(tmp_path, gt, dt)
    assert not asked
    assert run(tmp_path, gt, dt, "--jobs", 2) == alone
    assert len(asked) == 1
    run(tmp_path, gt, dt, "--jobs", 0, status=2)


def test_resamples_and_intervals_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixty videos; the first file finds the first forty, the second the first 25."""
    videos = range(1, 61)
    gt = truth([annotation(v, v, [BOX]) for v in videos], dict.fromkeys(videos, 1))
    files = {
        "many.json": [result(v, [BOX], 0.5) for v in range(1, 41)],
        "few.json": [result(v, [BOX], 0.5) for v in range(1, 26)],
        "same.json": [result(v, [BOX], 0.5) for v in range(1, 41)],
    }
    words = ("--metric", "tube_mask", "--resamples", 400)
    found = run(tmp_path, gt, files, *words)["comparison"]["tube_mask"]
    weights = draw_weights(60, 400, 0)
    assert (weights.sum(axis=1) == 60).all()
    assert np.allclose(weights.mean(axis=0), 1, atol=0.2)
    assert np.allclose(weights.var(axis=0), 59 / 60, atol=0.35)

    def ap(hits: int) -> float:
        """Precision 1 up to the recall hits / 60, of 101 recall points."""
        return sum(k / 100 <= hits / 60 + 1e-12 for k in range(101)) / 101 if hits else 0.0

    def at(values: list[float], share: float) -> float:
        """The value below which this share of the sorted values lies, between two of them."""
        values, place = sorted(values), share * (len(values) - 1)
        low, rest = math.floor(place), place % 1
        return values[low] * (1 - rest) + values[min(low + 1, len(values) - 1)] * rest

    many = [ap(int(row[:40].sum())) for row in weights]
    few = [ap(int(row[:25].sum())) for row in weights]
    gap = [b - a for a, b in zip(many, few, strict=True)]
    for name, key, values, value in (
        ("many.json", "value", many, ap(40)),
        ("few.json", "value", few, ap(25)),
        ("few.json", "difference_to_first", gap, ap(25) - ap(40)),
    ):
        assert at(values, 0.025) < at(values, 0.05)  # or the width of the interval is not seen
        interval = found[name][key]
        assert interval["value"] == pytest.approx(value)
        assert interval["low"] == pytest.approx(at(values, 0.025))
        assert interval["high"] == pytest.approx(at(values, 0.975))
    assert found["few.json"]["wins_against_first"] == sum(x > 0 for x in gap) / 400
    assert found["same.json"]["wins_against_first"] == 0
    printed = capsys.readouterr().out
    low, high = (100 * at(few, share) for share in (0.025, 0.975))
    assert f"[{low:.1f}, {high:.1f}]" in printed
    once = run(tmp_path, gt, files, "--metric", "tube_mask", "--resamples", 1)
    interval = once["comparison"]["tube_mask"]["many.json"]["value"]
    assert interval["low"] == interval["high"] == pytest.approx(many[0])


def frame(index: int, *labels: dict[str, Any]) -> dict[str, Any]:
    return {"videoName": "v", "name": f"{index}.jpg", "frameIndex": index, "labels": list(labels)}


def label(key: int, mask: Any, category: str = "car") -> dict[str, Any]:
    return {"id": str(key), "category": category, "rle": mask, "score": 0.5}


def test_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"categories": [{"name": "car"}, {"name": "boat"}]}))
    gt = [frame(0, label(1, BOX))]
    words = ("--metric", "bdd_mots", "hota", "frame_ap")
    eight, two = run(tmp_path, gt, gt, *words), run(tmp_path, gt, gt, *words, "--config", config)
    assert eight["bdd_mots"]["mMOTSA"] == 100 / 8
    assert two["bdd_mots"]["mMOTSA"] == 100 / 2
    for metric in ("hota", "frame_ap"):
        assert "boat" in two[metric]["per_class"]
        assert "boat" not in eight[metric]["per_class"]


def test_fill_missing_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, dt = [frame(0, label(1, BOX)), frame(1, label(1, BOX))], [frame(0, label(1, BOX))]
    for metric in ("bdd_mots", "hota"):
        run(tmp_path, gt, dt, "--metric", metric, status=2)
        assert "--fill-missing-frames" in capsys.readouterr().err
    words = ("--metric", "bdd_mots", "hota", "--fill-missing-frames")
    found = run(tmp_path, gt, dt, *words)
    assert found["bdd_mots"]["FN"] == 1
    assert found["hota"]["DetA"] == 0.5


def test_allow_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = [frame(0, label(1, BOX))]
    dt = [frame(0, label(1, BOX), label(2, rect(12, 12, 14, 14)))]
    assert run(tmp_path, gt, dt, "--metric", "frame_ap")["frame_ap"]["AP"] == 0
    assert "overlap not allowed" in capsys.readouterr().out
    found = run(tmp_path, gt, dt, "--metric", "frame_ap", "--allow-overlap")
    assert found["frame_ap"]["AP"] == pytest.approx(100)
    assert "overlap allowed" in capsys.readouterr().out


def test_several_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    gt, dt = truth([annotation(1, 1, [BOX])], {1: 1}), [result(1, [BOX], 1.0)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    found = run(tmp_path, gt, {"a/r.json": dt, "b/r.json": []}, "--metric", "tube_mask")
    assert [round(row["tube_mask"]["AP"]) for row in found["files"].values()] == [1, 0]
