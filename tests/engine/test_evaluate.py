"""Whole sets: results per video on disk, joined, scored; a killed evaluation goes on."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.inference.fake_model import BlobModel, blob_video
from vmt.config.node import load_config
from vmt.data.build import build_eval_videos
from vmt.engine.defaults import set_titles
from vmt.engine.evaluate import SetResults, annotation_file, evaluate_set
from vmt.engine.result_folder import ResultFolder
from vmt.inference.video_io import write_png
from vmt.utils.errors import VideoError

SIZE = (48, 80)


class CountedModel(BlobModel):
    """Knows its settings, as a real network does."""

    def __init__(self) -> None:
        super().__init__(noise_queries=0)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    """Three videos of blobs whose annotations are what the network says of them."""
    videos: list[dict[str, Any]] = []
    for k in range(3):
        names = []
        for t, frame in enumerate(blob_video(4, SIZE, blobs=1 + k % 2)):
            path = tmp_path / "images" / f"v{k}" / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, frame.numpy())
            names.append(f"v{k}/{t:05d}.png")
        size = {"height": SIZE[0], "width": SIZE[1]}
        videos.append({"id": 7 + k, "length": 4, "file_names": names, **size})
    categories = [{"id": c, "name": n} for c, n in ((10, "red"), (20, "green"), (30, "blue"))]
    path = tmp_path / "truth.json"
    content = {"videos": videos, "categories": categories, "annotations": []}
    path.write_text(json.dumps(content))
    return f"{path}@{tmp_path / 'images'}"


def config(*overrides: str) -> Any:
    return load_config(None, ["INPUT.MIN_SIZE_TEST", str(SIZE[0]), *overrides])


def evaluate(
    reference: str, folder: Path, cfg: Any = None, model: Any = None, **options: Any
) -> SetResults | None:
    chosen = cfg if cfg is not None else config()
    return evaluate_set(chosen, model or CountedModel(), reference, folder, **options)


def annotate(reference: str, results: Path) -> None:
    """Make the results the truth."""
    path = Path(reference.partition("@")[0])
    content = json.loads(path.read_text())
    entries = json.loads(results.read_text())
    content["annotations"] = [
        {
            "id": index,
            "video_id": entry["video_id"],
            "category_id": entry["category_id"],
            "segmentations": entry["segmentations"],
            "iscrowd": 0,
            "areas": [100] * 4,
        }
        for index, entry in enumerate(entries, start=1)
    ]
    path.write_text(json.dumps(content))


def test_results_are_joined_in_the_order_of_the_file_and_scored(
    reference: str, tmp_path: Path
) -> None:
    found = evaluate(reference, tmp_path / "first", config("TEST.ZIP", "true"))
    assert found is not None
    assert found.numbers == {}  # nothing to score with yet
    entries = json.loads(found.path.read_text())
    assert list(dict.fromkeys(entry["video_id"] for entry in entries)) == [7, 8, 9]
    assert all(len(entry["segmentations"]) == 4 for entry in entries)
    with zipfile.ZipFile(tmp_path / "first" / "results.zip") as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == found.path.read_bytes()
    best = [e for e in entries if e["score"] > 0.5]
    (tmp_path / "best.json").write_text(json.dumps(best))
    annotate(reference, tmp_path / "best.json")
    scored = evaluate(reference, tmp_path / "second")
    assert scored is not None
    assert scored.numbers["tube_mask/AP"] == pytest.approx(1.0)
    assert scored.numbers["tube_boundary/AP"] == pytest.approx(1.0)
    kept = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert kept["tube_mask/AP"] == pytest.approx(1.0)


def test_a_killed_evaluation_computes_only_what_is_missing(reference: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    answers = iter([False, True])
    assert evaluate(reference, folder, stopping=lambda: next(answers)) is None
    assert sorted(p.name for p in (folder / "videos").iterdir()) == ["7.json", "8.json"]
    assert not (folder / "results.json").exists()
    model = CountedModel()
    found = evaluate(reference, folder, model=model)
    assert found is not None
    assert model.clips == [4]  # one video of four frames
    whole = evaluate(reference, tmp_path / "straight")
    assert whole is not None
    assert found.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("change", ["weights", "settings"])
def test_results_of_another_network_are_not_mixed_in(
    reference: str, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    evaluate(reference, folder)
    model, cfg = CountedModel(), config()
    if change == "weights":
        model.colours.add_(1.0)
    else:
        cfg = config("TEST.WINDOW", "2")
    with caplog.at_level(logging.WARNING):
        evaluate(reference, folder, cfg, model)
    assert "other weights or settings; starting over" in caplog.text
    assert sum(model.clips) >= 12


def test_a_broken_video_is_fatal_or_left_out_by_config(
    reference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images" / "v1" / "00002.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(VideoError, match=r"v1/00002\.png"):
        evaluate(reference, tmp_path / "strict")
    assert sorted(p.name for p in (tmp_path / "strict" / "videos").iterdir()) == ["7.json"]
    found = evaluate(reference, tmp_path / "mild", config("TEST.SKIP_BROKEN_VIDEOS", "true"))
    assert found is not None
    assert found.skipped == (8,)
    assert "video 8 is left out" in caplog.text
    assert "00002.png" in caplog.text
    entries = json.loads(found.path.read_text())
    assert {entry["video_id"] for entry in entries} == {7, 9}


def test_no_entry_at_all_is_still_a_list(tmp_path: Path) -> None:
    store = ResultFolder(tmp_path / "x")
    store.claim("a")
    store.path(1).write_text("[\n]\n")
    assert store.join([1]) == 0
    assert json.loads(store.results.read_text()) == []


def test_titles_of_sets_never_collide() -> None:
    names = ["ovis_val", "a/val.json@x", "b/val.json@y"]
    assert list(set_titles(names).values()) == ["ovis_val", "val", "val_2"]


def test_sets_without_annotations_are_not_scored(reference: str) -> None:
    assert annotation_file(build_eval_videos(config(), reference)) is None
    assert annotation_file([]) is None
