"""Videos through predictor and mask refiner on a GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vmt
from tests.devices import DEVICES, overlap
from tests.synthetic import moving_shapes
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.structures.masks import decode_masks

SIZE = (60, 90)


def tracks(device: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = vmt.load_model("configs/quick/seqformer_tiny.yaml", device=device)
    assert model.device.type == device
    video = moving_shapes(5, SIZE, 0).frames
    options = PredictorOptions(window=3, min_size=60, min_score=0.0)
    found = VideoPredictor(model, options).stream(video)
    return [decode_masks([track.rle for track in frame.tracks], SIZE) for frame in found]


@pytest.mark.parametrize("device", DEVICES)
def test_a_stream_finds_the_same_tracks(device: str, repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    expected, actual = tracks("cpu"), tracks(device)
    assert [x.shape for x in actual] == [x.shape for x in expected]
    assert any(x.any() for x in expected)
    for one, other in zip(actual, expected, strict=True):
        assert overlap(one.bool(), other.bool()) > 0.99


@pytest.mark.parametrize("device", DEVICES)
def test_the_shipped_refiner_gives_the_same_masks(device: str) -> None:
    video = moving_shapes(3, (96, 128), 1)
    coarse = np.stack([np.roll(mask, 3, axis=-1) for mask in video.masks])
    results = [
        vmt.MaskRefiner.from_pretrained(device=name).refine(video.frames, coarse).masks
        for name in ("cpu", device)
    ]
    expected, actual = (torch.from_numpy(masks) for masks in results)
    assert not torch.equal(expected, torch.from_numpy(coarse)), "it refined something"
    assert overlap(actual, expected) > 0.995
