"""What bench_small.py says of clips, and what bench_demo.py takes for wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cocoapi_hq.io import rle
from tests.inference.fake_model import BlobFrameModel
from tests.small_weights import TINY
from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.families import SPACE
from vmt.engine.evaluate import frames_of
from vmt.inference.load import load_model
from vmt.inference.package_detector import RECIPE
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.video_model import FrameModel
from vmt.structures.labels import LabelSpace

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_families_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By supercategory, by name, or another thing; 0 where a network has no such family."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from bench_small import families_of  # type: ignore[import-not-found]

    rows = [
        {"id": 9, "name": "bus", "supercategory": "vehicle"},
        {"id": 2, "name": "camel"},
        {"id": 5, "name": "person"},
        {"id": 7, "name": "sports ball"},
    ]
    assert families_of(rows, SPACE) == {9: 3, 2: 2, 5: 1, 7: 4}
    only_persons = LabelSpace("persons", ("person",), (8,))
    assert families_of(rows, only_persons) == {9: 0, 2: 0, 5: 8, 7: 0}


def test_numbers_of_clips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results that are the truth have every number; half of them, of another family, fewer."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_small  # type: ignore[import-not-found]

    truth_file = write_moving_shapes(tmp_path / "clips", 2, 4, (64, 96), seed=0)
    truth = json.loads(truth_file.read_text())
    rows = [
        {"video_id": row["video_id"], "category_id": 4, "score": 0.9}
        | {"segmentations": row["segmentations"]}
        for row in truth["annotations"]
    ]
    predictor = VideoPredictor(BlobFrameModel())
    predictor.model.label_space = SPACE
    results = tmp_path / "results.json"

    def numbers(found: list[dict[str, object]]) -> dict[str, object]:
        results.write_text(json.dumps(found))
        monkeypatch.setattr(bench_small, "find_objects", lambda *asked: (results, 3.0))
        return bench_small.score_clips(predictor, truth_file.parent, None)

    all_right = numbers(rows)
    assert [all_right[name] for name in bench_small.TUBE_NUMBERS] == [100.0, 100.0, 100.0]
    assert all_right["mean_tube_iou"] == all_right["mean_boundary_iou"] == 1.0
    assert all_right["family_right"] == f"{len(rows)} of {len(rows)}"
    assert all_right["frames_per_second"] == 3.0
    first = [row | {"category_id": 1} for row in rows if row["video_id"] == 1]
    half = numbers(first)
    assert half["family_right"] == f"0 of {len(rows)}"
    assert half["mean_tube_iou"] == round(len(first) / len(rows), 3)
    assert 0 < half["tube_mask/AP50"] < 100


def test_the_clips_of_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Test clips chose nothing: only --record takes them by itself."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_small  # type: ignore[import-not-found]

    assert (bench_small.CLIPS.name, bench_small.TEST_CLIPS.name) == ("davis_train", "clips")
    asked: list[Path] = []
    monkeypatch.setattr(bench_small, "write_json", lambda *_: None)
    monkeypatch.setattr(bench_small, "load_segmenter", lambda *_: BlobFrameModel())
    monkeypatch.setattr(bench_small.MaskRefiner, "from_pretrained", lambda *_: None)
    monkeypatch.setattr(bench_small, "score_clips", lambda _, folder, *__: asked.append(folder))
    config = ["--config", "small/vmt_small", "--weights", "w.safetensors"]
    bench_small.main(["--record", *config])
    bench_small.main(["--output", str(tmp_path / "r.json"), *config])
    bench_small.main(["--record", "--clips", "mine", *config])
    assert [folder.name for folder in asked[::2]] == ["clips", "davis_train", "mine"]


def test_what_is_wrong_with_a_long_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from bench_demo import verdict  # type: ignore[import-not-found]

    files = ("overlay", "masks", "results")
    good = {
        "frames": 30, "stopped_at": 15, "growth": 0.01,
        "written": dict.fromkeys(files, 30), "written_when_stopped": dict.fromkeys(files, 17),
    }  # fmt: skip
    assert verdict(good, 0, 130, 0.03) == 0
    assert not capsys.readouterr().err
    for change, said in (
        ({"growth": 0.05}, "memory grows by more than 3%"),
        ({"written": {**good["written"], "masks": 29}}, "frames are missing"),
        ({"written_when_stopped": dict.fromkeys(files, 30)}, "has all frames"),
        ({"written_when_stopped": dict.fromkeys(files, 14)}, "lost frames"),
        ({"written_when_stopped": {**dict.fromkeys(files, 17), "results": 16}}, "disagree"),
    ):
        assert verdict(good | change, 0, 130, 0.03) == 1
        assert said in capsys.readouterr().err
    assert verdict(good, 1, 0, 0.03) == 1
    assert "exit status 0 after SIGINT" in capsys.readouterr().err


def test_thresholds_are_chosen_for_the_tracks_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the study scores is what the predictor gives with the same options."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import study_small  # type: ignore[import-not-found]

    truth = write_moving_shapes(tmp_path, 1, 6, (64, 96), seed=0)
    (record,) = load_ytvis_json(truth, truth.parent / "JPEGImages", "clips")
    torch.manual_seed(0)
    model = load_model(RECIPE, overrides=TINY)
    assert isinstance(model, FrameModel)
    options = PredictorOptions.from_config(load_config(RECIPE, TINY))
    own = replace(options.quasi_dense, init_score=0.2, object_score=0.1, match_score=0.3)
    stream = VideoPredictor(model, replace(options, quasi_dense=own)).stream(frames_of(record))
    masks: dict[int, list[Any]] = {}
    for result in stream:
        for track in result.tracks:
            masks.setdefault(track.track_id, [None] * 6)[result.index] = track.rle
    ours = study_small.tracks_of(record.id, study_small.look(model, options, record), own)
    seen = [counts for entry in ours if any(counts := counts_of(entry["segmentations"]))]
    assert masks
    assert seen == [counts_of(masks[track]) for track in sorted(masks)]
    with pytest.raises(Exception, match="test clips, which choose nothing"):
        study_small.main(["--clips", str(study_small.TEST_CLIPS)])


def counts_of(tube: list[Any]) -> list[str | None]:
    """Masks without a pixel are none."""
    return [mask["counts"] if mask is not None and rle.area(mask) else None for mask in tube]
