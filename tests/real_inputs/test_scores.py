"""Results of real users' tools, scored: ids, missing videos, missing fields, lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_inputs.conftest import Vmt
from tests.real_inputs.disk import disk, read_json


def score(vmt: Vmt, gt: str, results: str, *metrics: str, options: tuple = ()) -> dict:
    """Scores by metric, in percent points over 100."""
    target = Path("scores.json")
    target.unlink(missing_ok=True)
    names = metrics or ("tube_mask",)
    files = ("eval", "--gt", gt, "--results", results, "--metric", *names)
    assert vmt(*files, "--resamples", 0, "--json", target, *options).status == 0
    return read_json(target)


def test_19_category_ids(vmt: Vmt) -> None:
    assert score(vmt, "gt.json", "r_zero_based.json")["tube_mask"]["AP"] == 0
    said = vmt.caplog.text
    assert "1 results of unknown categories are left out: category_id 0 (1)" in said
    assert "They seem to count from 0" in said
    # One of two classes is found; the third has no object and does not count.
    assert score(vmt, "gt.json", "r_unknown.json")["tube_mask"]["AP"] == pytest.approx(0.5)
    assert "left out: category_id 99 (1); the ground truth has 1 to 40." in vmt.caplog.text
    for name, value in (("text", "'1'"), ("float", "1.0")):
        refused = vmt("eval", "--gt", "gt.json", "--results", f"r_{name}.json").sentence
        assert f"results[0].category_id is {value}; give the integer id of a category." in refused
        vmt("check-annotations", f"r_{name}.json", "--gt", "gt.json", "--fix", f"{name}.json")
        assert score(vmt, "gt.json", f"{name}.json")["tube_mask"]["AP"] == pytest.approx(1)


def test_31_eval_missing_videos(vmt: Vmt) -> None:
    ap = score(vmt, "gt.json", "r.json", options=("--per-video",))["tube_mask"]
    # Half of the objects are found: recalls 0, 0.01, ..., 0.5 of the 101 have precision 1.
    assert ap["AP"] == pytest.approx(51 / 101)
    assert ap["AR1"] == pytest.approx(0.5)
    assert {name: row["AP"] for name, row in ap["per_video"].items()} == {
        "1": pytest.approx(1),
        "2": pytest.approx(0),
    }


def test_33_eval_gt_without_optional_fields(vmt: Vmt) -> None:
    said = {
        "no_iscrowd": "annotations[0].iscrowd = None: neither 0 nor 1. Fix: set to 0.",
        "no_areas": "0 defects",
        "no_bboxes": "0 defects",
        "no_id": "annotations[0].id = None: not an integer >= 1. Fix: renumbered 1.",
        "no_length": "videos[0].length = None: not a positive integer. Fix: set to 6.",
        "no_categories": "'category_1' is added to the categories; name it.",
    }
    for name, sentence in said.items():
        if name == "no_categories":
            refused = vmt("eval", "--gt", f"{name}.json", "--results", "r.json").sentence
            assert "has no 'categories', which name the classes; add" in refused
        else:
            assert score(vmt, f"{name}.json", "r.json")["tube_mask"]["AP"] == pytest.approx(1)
        checked = vmt("check-annotations", f"{name}.json", "--fix", f"fixed {name}.json")
        assert sentence in checked.out
        assert score(vmt, f"fixed {name}.json", "r.json")["tube_mask"]["AP"] == pytest.approx(1)


def test_34_eval_duplicates_and_overlap(vmt: Vmt) -> None:
    assert score(vmt, "gt.json", "twice.json")["tube_mask"]["AP"] == pytest.approx(1)
    # Two tracks without a pixel come before the right one: precision 1/3 at every recall.
    assert score(vmt, "gt.json", "empty.json")["tube_mask"]["AP"] == pytest.approx(1 / 3)
    for name, count in (("longer", 8), ("shorter", 4)):
        refused = vmt("eval", "--gt", "gt.json", "--results", f"{name}.json").sentence
        assert f"has {count} entries, but video_id=1 has 6 frames" in refused
        assert "--lengths cut" in refused
    cut = score(vmt, "gt.json", "longer.json", options=("--lengths", "cut"))
    assert cut["tube_mask"]["AP"] == pytest.approx(1)
    # Four of six frames are there: IoU 4/6 by area, so four of ten thresholds (0.5 to 0.65).
    padded = score(vmt, "gt.json", "shorter.json", options=("--lengths", "pad"))
    areas = [int(disk(t).sum()) for t in range(6)]
    overlap = sum(areas[:4]) / sum(areas)
    held = sum(overlap >= 0.5 + 0.05 * k for k in range(10))
    assert padded["tube_mask"]["AP"] == pytest.approx(held / 10)


def test_36_eval_hota_jf_variants(vmt: Vmt) -> None:
    metrics = ("hota", "tracklet_quality")
    perfect = score(vmt, "gt.json", "perfect.json", *metrics)
    assert perfect["hota"]["HOTA"] == pytest.approx(1)
    assert perfect["tracklet_quality"]["JF"] == pytest.approx(1)
    # Three of six frames: DetA 3/6, AssA 3/6, HOTA their geometric mean; J is 1 in half of them.
    gaps = score(vmt, "gt.json", "gaps.json", *metrics)
    assert gaps["hota"]["DetA"] == gaps["hota"]["AssA"] == pytest.approx(0.5)
    assert gaps["hota"]["HOTA"] == pytest.approx(0.5)
    assert gaps["hota"]["LocA"] == pytest.approx(1)
    assert gaps["tracklet_quality"]["J"] == pytest.approx(0.5)
    wrong = score(vmt, "gt.json", "wrongsize.json", *metrics)
    assert wrong["tracklet_quality"]["J"] == 0
    said = "6 masks have another size than the ground truth and match nothing"
    assert f"{said}: results[0] has [128, 192], video_id=1 [64, 96]." in vmt.caplog.text


def test_89_eval_mots_png_16bit(vmt: Vmt) -> None:
    for folder, metric, depth, kind in (
        ("instances", "hota", 16, 0),
        ("instances", "bdd_mots", 16, 0),
        ("palette", "hota", 1, 3),
    ):
        refused = vmt("eval", "--gt", folder, "--results", folder, "--metric", metric).sentence
        assert f"{folder}/0002/000000.png: is a PNG with bit depth {depth}" in refused
        assert f"colour type {kind}; bitmasks are 8-bit RGBA" in refused
        assert "become YouTube-VIS JSON by `vmt convert-annotations`" in refused
