"""RefineVIS's tracks through its three frame models, small and with random weights."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.clips import CONFIGS
from tests.inference.fake_model import blob_video
from vmt.inference.association.refinevis import RefineVISOptions
from vmt.inference.load import load_segmenter
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.modeling.meta_arch.refinevis import RefineVIS
from vmt.structures.masks import decode_masks

#: Times the weights of the class head: classes of random queries, but sure ones.
NETWORKS = {"refinevis_tiny": 8, "refinevis_condinst_tiny": 8, "refinevis_mask2former_tiny": 40}
SIZE = (64, 96)


@cache
def network(name: str) -> RefineVIS:
    torch.manual_seed(0)
    model = load_segmenter(CONFIGS / "quick" / f"{name}.yaml", None, ["MODEL.DEVICE", "cpu"], None)
    assert isinstance(model, RefineVIS)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".cls." in key and key.endswith("weight"):
                parameter.mul_(NETWORKS[name])
    return model


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> RefineVIS:
    """With the TAR of a fresh network, whatever a test did to it."""
    model = network(request.param)
    for last in (model.tar.self_attn.out_proj, model.tar.linear2):
        nn.init.zeros_(last.weight)
    return model


def randomise(model: RefineVIS) -> RefineVIS:
    torch.manual_seed(1)
    for last in (model.tar.self_attn.out_proj, model.tar.linear2):
        nn.init.normal_(last.weight, std=0.1)
    return model


def frames(count: int) -> list[np.ndarray]:
    """A still scene, which random queries see as the same objects, with a gap."""
    red, none = (blob_video(1, SIZE, blobs)[0].numpy() for blobs in (2, 0))
    return [none if t in (3, 4) else red for t in range(count)]


def predictor(model: RefineVIS, mode: str = "online", window: int = 4) -> VideoPredictor:
    asked = RefineVISOptions(mode, window)
    return VideoPredictor(model, PredictorOptions(min_size=64, refinevis=asked))


def outline(results: list[FrameResult]) -> list[list[tuple]]:
    return [[(t.track_id, t.label, t.score, t.rle) for t in r.tracks] for r in results]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_fresh_network_shows_its_frame_model(model: RefineVIS, mode: str) -> None:
    plain = list(predictor(model, window=0).stream(frames(7)))
    refined = list(predictor(model, mode).stream(frames(7)))
    count = 0
    for one, other in zip(plain, refined, strict=True):
        shown = {track.track_id: track for track in other.tracks}
        for track in one.tracks:
            same = shown[track.track_id]
            assert same.label == track.label
            assert same.score == pytest.approx(track.score, abs=1e-4)
            masks = decode_masks([same.rle, track.rle], SIZE)
            assert (masks[0] ^ masks[1]).sum() <= 0.01 * masks[1].sum()
            count += 1
    assert count >= 7, "some tracks"


def test_a_live_video_is_the_stream(model: RefineVIS) -> None:
    randomise(model)
    streamed = outline(list(predictor(model).stream(frames(6))))
    live = predictor(model)
    assert outline([live.step(frame) for frame in frames(6)]) == streamed
    plain = outline(list(predictor(model, window=0).stream(frames(6))))
    assert plain[0], "there is something to refine"
    assert plain != streamed


def test_half_precision(model: RefineVIS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads and refinement follow the network behind its forward pass."""
    randomise(model)
    for part in (model, model.frame_model):
        monkeypatch.setattr(part, "precision", "bf16")
    for mode in ("online", "offline"):
        results = list(predictor(model, mode).stream(frames(5)))
        assert any(result.tracks for result in results)


def test_clips_know_nothing_of_each_other(model: RefineVIS) -> None:
    """Masks of a clip are the same whatever the length of the video behind it."""
    randomise(model)
    long = outline(list(predictor(model, "offline").stream(frames(9))))
    short = outline(list(predictor(model, "offline").stream(frames(4))))
    assert long[:4] == short
    assert any(short)
