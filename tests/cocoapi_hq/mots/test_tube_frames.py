"""BDD100K MOTS from what ``--eval-only`` writes: names pair videos and classes, ids are tubes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.mots import scalabel_io
from cocoapi_hq.mots.bitmask_png import read_bitmask
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from tests.cocoapi_hq.mots.test_clear_mot import write_png
from tests.cocoapi_hq.reference_mots import box
from vmt.cli.main import main

CAR, RIDER = 3, 2  # category ids: places in the list of classes, counted from 1
A, B, C = box(0, 0, 8, 4), box(10, 0, 18, 4), box(0, 5, 8, 9)
FRAMES = 4


def scalabel() -> list[dict[str, Any]]:
    """Two videos of four frames: a car all the time; a rider, and a crowd of cars in two."""
    frames = []
    for t in reversed(range(FRAMES)):
        car = {"id": "7", "category": "car", "rle": rle.encode(A)}
        rider = {"id": "x", "category": "rider", "rle": rle.encode(C)}
        crowd = {"id": "y", "category": "car", "rle": rle.encode(B), "attributes": {"crowd": True}}
        for video, labels in (("b-10", [car]), ("b-9", [rider, crowd][: 2 if t < 2 else 1])):
            name = f"{video}-{t:04d}.jpg"
            frames.append({"videoName": video, "name": name, "frameIndex": t, "labels": labels})
    return frames


def bitmasks(root: Path) -> Path:
    for t in range(FRAMES):
        write_png(root / "b-10" / f"b-10-{t:04d}.png", [(7, CAR, 0, A)], (10, 20))
        labels = [(1, RIDER, 0, C), (2, CAR, 2, B)][: 2 if t < 2 else 1]
        write_png(root / "b-9" / f"b-9-{t:04d}.png", labels, (10, 20))
    return root


def ytvis() -> dict[str, Any]:
    def tube(key: int, video: int, category: int, mask: np.ndarray, n: int, crowd: int) -> Any:
        masks = [rle.encode(mask)] * n + [None] * (FRAMES - n)
        row = {"id": key, "video_id": video, "category_id": category, "iscrowd": crowd}
        return row | {"segmentations": masks}

    videos = [{"id": k, "height": 10, "width": 20, "length": FRAMES} for k in (1, 2)]
    return {
        "videos": videos,
        "categories": [{"id": k, "name": n} for k, n in enumerate(BDD100K_MOTS.classes, start=1)],
        "annotations": [
            tube(1, 1, CAR, A, 4, 0), tube(2, 2, RIDER, C, 4, 0), tube(3, 2, CAR, B, 2, 1)
        ],
    }  # fmt: skip


def entry(video: str, category: int, score: float, *masks: np.ndarray | None) -> dict[str, Any]:
    return {
        "video_id": {"b-10": 1, "b-9": 2}[video],
        "video_name": video,
        "score": score,
        "category_id": category,
        "segmentations": [None if m is None else rle.encode(m) for m in masks],
    }


PERFECT = [entry("b-9", RIDER, 0.9, C, C, C, C), entry("b-10", CAR, 0.8, A, A, A, A)]
#: The car changes its track in the middle; what the detector says in the crowd is not asked for.
SWITCH = [
    entry("b-10", CAR, 0.8, A, A, None, None),
    entry("b-10", CAR, 0.7, None, None, A, A),
    entry("b-9", RIDER, 0.9, C, C, C, None),
    entry("b-9", CAR, 0.6, B, B, None, None),
]


@pytest.fixture(params=["scalabel", "folder of scalabel", "bitmasks", "youtube-vis"])
def gt(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "bitmasks":
        return bitmasks(tmp_path / "gt")
    path = tmp_path / "gt.json"
    if request.param == "youtube-vis":
        path.write_text(json.dumps(ytvis()))
        return path
    if request.param == "scalabel":
        path.write_text(json.dumps(scalabel()))
        return path
    (tmp_path / "gt").mkdir()
    for video in ("b-10", "b-9"):
        rows = [f for f in scalabel() if f["videoName"] == video]
        (tmp_path / "gt" / f"{video}.json").write_text(json.dumps(rows))
    return tmp_path / "gt"


def run(gt: Path, results: Any, tmp_path: Path, *words: object) -> dict[str, Any]:
    """Numbers of ``vmt eval``."""
    path, out = tmp_path / "results.json", tmp_path / "scores.json"
    path.write_text(json.dumps(results))
    command = ["eval", "--gt", gt, "--results", path, "--json", out, *words]
    assert main([str(word) for word in command]) == 0
    scores: dict[str, Any] = json.loads(out.read_text())
    return scores


def test_perfect_results_score_100(gt: Path, tmp_path: Path) -> None:
    scores = run(gt, PERFECT, tmp_path, "--metric", "bdd_mots", "hota", "frame_ap")
    rows = scores["bdd_mots"]["per_class"]
    for name in ("rider", "car", "OVERALL"):
        assert [rows[name][key] for key in ("MOTSA", "MOTSP", "IDF1")] == [100.0] * 3
    # Six of eight classes are absent, and count as 0.
    assert scores["bdd_mots"]["mMOTSA"] == 25.0
    assert scores["hota"]["HOTA"] == 1.0
    assert scores["frame_ap"]["AP"] == pytest.approx(100.0)


def test_a_switch_counted_by_hand(gt: Path, tmp_path: Path) -> None:
    scores = run(gt, SWITCH, tmp_path, "--metric", "bdd_mots")["bdd_mots"]
    car, rider = scores["per_class"]["car"], scores["per_class"]["rider"]
    # Car: 4 masks, 4 matches, 1 switch; two tracks of two frames, one of which may be the car.
    assert (car["MOTSA"], car["MOTSP"], car["IDSw"]) == (75.0, 100.0, 1)
    assert car["IDF1"] == 100 * 2 * 2 / (4 + 4)
    assert (car["FP"], car["FN"]) == (0, 0)  # the crowd asks for nothing
    # Rider: 3 of 4 masks.
    assert (rider["MOTSA"], rider["FN"], rider["IDSw"]) == (75.0, 1, 0)
    assert rider["IDF1"] == pytest.approx(100 * 2 * 3 / (4 + 3))
    assert scores["mMOTSA"] == pytest.approx(150 / 8)


def test_the_better_score_has_the_pixel(gt: Path, tmp_path: Path) -> None:
    wider = box(0, 0, 12, 4)
    results = [*PERFECT, entry("b-10", CAR, 0.3, wider, wider, wider, wider)]
    scores = run(gt, results, tmp_path, "--metric", "bdd_mots")["bdd_mots"]
    # The car stays whole; the rest of the weaker mask, 16 pixels, is a false positive per frame.
    assert scores["per_class"]["car"]["MOTSP"] == 100.0
    assert (scores["FP"], scores["FN"], scores["IDSw"]) == (4, 0, 0)
    scores = run(gt, results, tmp_path, "--metric", "bdd_mots", "--min-score", 0.5)["bdd_mots"]
    assert scores["FP"] == 0
    lower = [entry("b-10", CAR, 0.9, wider, wider, wider, wider), *PERFECT]
    scores = run(gt, lower, tmp_path, "--metric", "bdd_mots")["bdd_mots"]
    assert scores["per_class"]["car"]["MOTSP"] == pytest.approx(100 * 32 / 48)


def test_results_without_names_pair_by_id(tmp_path: Path) -> None:
    """Videos count from 1 by name, as the data set numbers them."""
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(scalabel()))
    bare = [{k: v for k, v in row.items() if k != "video_name"} for row in PERFECT]
    assert run(path, bare, tmp_path, "--metric", "bdd_mots")["bdd_mots"]["mMOTSA"] == 25.0


def test_categories_of_another_label_space_pair_by_name(tmp_path: Path) -> None:
    path, names = tmp_path / "gt.json", tmp_path / "classes.json"
    path.write_text(json.dumps(scalabel()))
    rows = [{"id": 30, "name": "van"}, {"id": 3, "name": "rider"}, {"id": 9, "name": "kite"}]
    names.write_text(json.dumps({"categories": rows}))
    moved = [row | {"category_id": {RIDER: 3, CAR: 30}[row["category_id"]]} for row in PERFECT]
    scores = run(path, moved, tmp_path, "--metric", "bdd_mots", "--categories", names)
    assert scores["bdd_mots"]["mMOTSA"] == 25.0
    names.write_text(json.dumps({"categories": [{"id": 9, "name": "kite"}]}))
    with pytest.raises(ScoringError, match="none of its categories is one of the classes"):
        cocoapi_hq.evaluate(path, moved, ["bdd_mots"], categories=names)


def test_a_map_of_categories(tmp_path: Path) -> None:
    """Of a network whose classes have other names: a sedan is a car here."""
    path, table = tmp_path / "gt.json", tmp_path / "map.json"
    path.write_text(json.dumps(scalabel()))
    table.write_text(json.dumps({"6": "car", "28": "rider"}))
    moved = [row | {"category_id": {RIDER: 28, CAR: 6}[row["category_id"]]} for row in PERFECT]
    scores = run(path, moved, tmp_path, "--metric", "bdd_mots", "--categories", table)
    assert scores["bdd_mots"]["mMOTSA"] == 25.0
    for content, message in (
        ({"6": "sedan"}, r"map\.json: '6' is 'sedan'; map category ids to classes, which are ped"),
        ({"car": "6"}, r"'car' is '6'"),
        ({}, "has no list 'categories'"),
        ([], "has no list 'categories'"),
    ):
        table.write_text(json.dumps(content))
        with pytest.raises(ScoringError, match=message):
            cocoapi_hq.evaluate(path, moved, ["bdd_mots"], categories=table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_name": "z"}, r"results\[0\]: video_name 'z' is not among the 2 videos"),
        ({"segmentations": [None]}, r"results\[0\]\.segmentations has 1 entries, but video 'b-9'"),
        ({"category_id": "2"}, r"results\[0\]\.category_id is '2'"),
        ({"score": float("nan")}, r"results\[0\]\.score is nan"),
        ({"segmentations": [{"size": [1, 1], "counts": "zz"}] * 4}, r"segmentations\[0\]: counts"),
    ],
)
def test_what_cannot_be_paired_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        cocoapi_hq.evaluate(scalabel(), [PERFECT[0] | change], ["bdd_mots"])


def test_unknown_categories_and_every_score_are_told(caplog: pytest.LogCaptureFixture) -> None:
    cocoapi_hq.evaluate(scalabel(), [PERFECT[0] | {"category_id": 0}, *PERFECT], ["bdd_mots"])
    assert "category_id 0 (1); the ground truth has 1 to 8" in caplog.text
    assert "down to score 0.800; --min-score leaves out weak ones" in caplog.text


def test_results_for_the_server(tmp_path: Path) -> None:
    path, out = tmp_path / "gt.json", tmp_path / "scalabel.json"
    path.write_text(json.dumps(scalabel()))
    found = run(path, SWITCH, tmp_path, "--metric", "bdd_mots", "--scalabel", out)
    frames = json.loads(out.read_text())
    assert len(frames) == 2 * FRAMES
    assert {label["category"] for f in frames for label in f["labels"]} == {"car", "rider"}
    read = scalabel_io.load_frames(out, BDD100K_MOTS, is_gt=False)
    assert sum(len(f.rles) for f in read) == 4 + 3 + 2
    again = cocoapi_hq.evaluate(path, out, ["bdd_mots"]).others["bdd_mots"]
    assert again["mMOTSA"] == found["bdd_mots"]["mMOTSA"]


def test_bitmasks_for_the_server(tmp_path: Path) -> None:
    """Ids count from 1 in every video; the numbers are those of run lengths."""
    path, out = bitmasks(tmp_path / "gt"), tmp_path / "png"
    found = run(path, SWITCH, tmp_path, "--metric", "bdd_mots", "--bitmasks", out)
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*.png"))
    assert files == [f"{v}/{v}-{t:04d}.png" for v in ("b-10", "b-9") for t in range(FRAMES)]
    again = cocoapi_hq.evaluate(path, out, ["bdd_mots"]).others["bdd_mots"]
    for key in ("mMOTSA", "mMOTSP", "mIDF1", "IDSw", "FP", "FN"):
        assert again[key] == found["bdd_mots"][key]
    ids = {
        v: read_bitmask(out / f"{v}/{v}-0000.png", BDD100K_MOTS).track_ids for v in ("b-10", "b-9")
    }
    assert {v: found.tolist() for v, found in ids.items()} == {"b-10": [1], "b-9": [1, 2]}


def test_run_lengths_meet_bitmasks(tmp_path: Path) -> None:
    """Truth in PNG, results in JSON: the truth is read once, for every metric."""
    path, out = bitmasks(tmp_path / "gt"), tmp_path / "results.json"
    run(path, SWITCH, tmp_path, "--metric", "bdd_mots", "--scalabel", out)
    metrics = ["bdd_mots", "hota", "frame_ap"]
    found = cocoapi_hq.evaluate(str(path), str(out), metrics).others
    expected = cocoapi_hq.evaluate(scalabel(), str(out), metrics).others
    for metric in metrics:
        numbers = {k: v for k, v in found[metric].items() if isinstance(v, float)}
        assert numbers == pytest.approx({k: expected[metric][k] for k in numbers}, nan_ok=True)


def test_wrong_sizes_are_told_by_every_metric(caplog: pytest.LogCaptureFixture) -> None:
    odd = rle.encode(np.ones((5, 5), bool))
    results = [PERFECT[0] | {"segmentations": [odd] * FRAMES}]
    for metric in ("bdd_mots", "hota", "frame_ap"):
        caplog.clear()
        cocoapi_hq.evaluate(scalabel(), results, [metric])
        assert "differ in size from the ground truth" in caplog.text
