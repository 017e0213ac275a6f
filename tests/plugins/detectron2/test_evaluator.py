"""Scores of data sets that names stand for: with masks, without, and in the form of MOTS."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.inference.fake_model import BlobModel
from vmt.data.catalog import load_dataset
from vmt.data.datasets.categories import label_space
from vmt.engine.evaluate import evaluate_set
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.utils.errors import ConfigError


@pytest.fixture
def evaluate(
    make_config: Callable[..., Any],
    plugin: Any,
    tiny_datasets: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Any]:
    """Results of a made-up network on a data set, by ``inference_on_dataset``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))

    def run(name: str, *overrides: Any) -> Any:
        from detectron2.evaluation import inference_on_dataset

        cfg = make_config("seqformer_tiny", "VMT.MODEL.LABEL_SPACE", "", *overrides)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
        predictor = VideoPredictor(BlobModel(radius=300.0), PredictorOptions(window=3, min_size=64))

        def model(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
            outputs = []
            for video in batch:
                stream = predictor.stream(video["frames"])
                outputs.append({"frames": tuple(stream), "tracks": tuple(stream.finish())})
            return outputs

        evaluator = plugin.Trainer.build_evaluator(cfg, name)
        loader = plugin.Trainer.build_test_loader(cfg, name)
        return inference_on_dataset(model, loader, evaluator)

    return run


def test_refined_masks_are_the_truth(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    results = evaluate("hq_ytvis_val")
    assert list(results) == ["tube_mask", "tube_boundary"]
    assert "AP75" in results["tube_boundary"]
    folder = tmp_path / "output/inference/hq_ytvis_val"
    numbers = json.loads((folder / "metrics.json").read_text())
    for metric, values in results.items():
        for name, value in values.items():
            fraction = numbers[f"{metric}/{name}"]
            assert math.isnan(value) if fraction < 0 else value == 100 * fraction
    entries = json.loads((folder / "results.json").read_text())
    ids = {entry["video_id"] for entry in entries}
    assert ids <= {video.id for video in load_dataset("hq_ytvis_val")}
    assert entries


def test_units(evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from vmt.plugins.detectron2 import evaluator

    numbers = {"tube_mask/AP": 0.25, "tube_boundary/APl": -1.0, "hota/HOTA": 0.5}
    monkeypatch.setattr(evaluator, "finish_set", lambda *_, **__: numbers)
    results = evaluate("hq_ytvis_val")
    assert results["tube_mask"] == {"AP": 25.0}
    assert math.isnan(results["tube_boundary"]["APl"])
    assert results["hota"] == {"HOTA": 0.5}


def test_a_set_without_masks_gives_results_alone(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    assert evaluate("ytvis_2019_val", "VMT.TEST.ZIP", True) == {}
    folder = tmp_path / "output/inference/ytvis_2019_val"
    assert (folder / "results.zip").is_file()
    before = (folder / "results.json").read_text()
    assert evaluate("ytvis_2019_val") == {}
    assert (folder / "results.json").read_text() == before


def test_mots(evaluate: Callable[..., Any], tmp_path: Path, make_config: Any, plugin: Any) -> None:
    """Bitmasks, frames and numbers are those of an evaluation of ours."""
    results = evaluate("bdd100k_mots_val")
    assert {"bdd_mots", "frame_ap"} == set(results)
    cfg = plugin.vmt_config(make_config("seqformer_tiny", "VMT.TEST.WINDOW", 3))
    network = BlobModel(radius=300.0)
    network.label_space = label_space("bdd100k_mots")
    expected = evaluate_set(cfg, network, "bdd100k_mots_val", tmp_path / "ours")
    flat = {f"{m}/{name}": value for m, row in results.items() for name, value in row.items()}
    assert flat == pytest.approx(expected.numbers, nan_ok=True)
    assert "bdd_mots/mMOTSA" in flat
    theirs = tmp_path / "output/inference/bdd100k_mots_val"
    assert json.loads((theirs / "results.json").read_text()) == json.loads(
        expected.path.read_text()
    )
    bitmasks = sorted(path.relative_to(theirs) for path in theirs.rglob("*.png"))
    assert bitmasks
    for path in bitmasks:
        assert (theirs / path).read_bytes() == (tmp_path / "ours" / path).read_bytes()


def test_images_are_for_detectron2s_own_evaluator(evaluate: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="has images; detectron2's COCOEvaluator"):
        evaluate("coco_2017_val", "VMT.MODEL.LABEL_SPACE", "coco")
