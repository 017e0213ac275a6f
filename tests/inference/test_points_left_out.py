"""Budgets of the refiners: they grow with the video, and what they leave out is counted aloud."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import vmt
from tests.engine.clips import CONFIGS, quick_config
from tests.recipes import train
from vmt.data.datasets.categories import label_space
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.refiners.quadtree.refiner import QuadtreeRefiner

SIZE = 32
#: Cells of 32x32 pixels at strides 8, 4 and 2.
CELLS = 4 * 4 + 8 * 8 + 16 * 16


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is a node."""
    monkeypatch.setattr(QuadtreeRefiner, "thresholds", (0.0, 0.0, 0.0))


def model_of(name: str, max_points: int):
    torch.manual_seed(0)
    cfg = quick_config(name, "MODEL.SEQFORMER.NUM_QUERIES", "1")
    cfg.defrost()
    cfg.MODEL.REFINER.MAX_POINTS = max_points
    return build_model(cfg, label_space("object")).eval()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "MAX_POINTS" in r.getMessage()]


def run(model, num_frames: int, window: int = 0) -> None:
    frames = [np.full((SIZE, SIZE, 3), 40, np.uint8)] * num_frames
    options = PredictorOptions(window=window, min_size=SIZE)
    stream = VideoPredictor(model, options).stream(frames)
    list(stream)
    stream.finish()


@pytest.mark.parametrize(("num_frames", "budget"), [(3, 100), (40, 100), (41, 200)])
def test_a_longer_video_has_a_larger_budget(
    num_frames: int, budget: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every cell of every frame is a node of the one tracklet."""
    model = model_of("vmt_tiny", 100)
    trees = []
    model.refiner.register_forward_hook(lambda module, inputs, output: trees.append(output.tree))
    run(model, num_frames)
    assert [tree.lengths() for tree in trees] == [[budget]]
    total = num_frames * CELLS
    assert said(caplog) == [
        f"video: {total - budget} of {total} points to refine keep the coarse mask: there were "
        "more than MODEL.REFINER.MAX_POINTS 100 for a tracklet and 40 frames; raise it to refine "
        "all, at more time and memory."
    ]


def test_windows_of_a_video_are_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("vmt_tiny", 100)
    run(model, 5, window=3)  # frames 0 to 2 and 2 to 4
    assert len(said(caplog)) == 1
    assert f"video: {2 * (3 * CELLS - 100)} of {2 * 3 * CELLS} points" in said(caplog)[0]


def test_a_band_is_counted_too() -> None:
    """An edge between columns 15 and 16: six cells on each side, in every row."""
    refiner = model_of("vmt_tiny_released", 7).refiner
    union = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    union[0, :, :16] = True
    band = torch.zeros_like(union)
    band[0, :, 10:22] = True
    refiner._attend(torch.zeros(2, 64, SIZE, SIZE), union, band)
    sentence = refiner.points_left_out()
    assert sentence.startswith(f"{12 * SIZE - 7} of {12 * SIZE} points")
    assert "MAX_POINTS 7 for a frame;" in sentence
    assert refiner.points_left_out() == ""


def test_nothing_is_said_when_all_are_refined(caplog: pytest.LogCaptureFixture) -> None:
    for limit in (0, 3 * CELLS):
        run(model_of("vmt_tiny", limit), 3)
    assert said(caplog) == []


def test_an_evaluation_says_it_once_per_video(
    tiny_datasets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"MODEL.REFINER.MAX_POINTS": "5"}
    config = CONFIGS / "ovis/vmt_R50.yaml"
    with caplog.at_level(logging.WARNING):
        assert train(config, tmp_path, tiny_datasets, "--eval-only", **keys) == 0
    assert sorted(line.split(":")[0] for line in said(caplog)) == ["va0ff0000", "va0ff0001"]


def test_given_masks_are_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    refiner = vmt.MaskRefiner.from_pretrained(device="cpu")
    refiner.network.refiner.max_points = 20
    masks = np.zeros((1, 2, 96, 96), np.bool_)
    masks[:, :, 30:70, 30:70] = True
    refiner.refine(np.zeros((2, 96, 96, 3), np.uint8), masks)
    assert len(said(caplog)) == 1
    left, found = (int(word) for word in said(caplog)[0].split(" points")[0].split(" of "))
    assert found - left == 2 * 20  # frame by frame, 20 each
