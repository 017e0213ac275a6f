"""Masks of tracks are the refiner's, everything else is the association's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.inference.fake_model import BlobFrameModel, FullColourRefiner, blob_video, frame_maps
from vmt.inference.association.base import FrameLogits
from vmt.inference.association.sharpened import MIN_SCORE, window_of
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.structures.track_window import ABSENT, FrameMaps
from vmt.utils.errors import ConfigError

SIZE = (72, 120)
ASSOCIATIONS = ["bisoftmax", "embedding_hungarian"]


def video(count: int, blobs: int = 2) -> list[np.ndarray]:
    return [frame.numpy() for frame in blob_video(count, SIZE, blobs)]


def predictor(association: str, refine: bool, window: int = 0, **options) -> VideoPredictor:
    model = BlobFrameModel(association)
    if refine:
        model.refiner = FullColourRefiner()
    weight = 1.0 if window == 1 else 0.0
    settings = PredictorOptions(
        window=window, min_size=72, similarity_weight=weight, refine_window=3, **options
    )
    return VideoPredictor(model, settings)


def who(results: list[FrameResult]) -> list[tuple]:
    return [(r.index, [(t.track_id, t.label, t.score) for t in r.tracks]) for r in results]


def masks(results: list[FrameResult]) -> list:
    return [[t.rle["counts"] for t in r.tracks] for r in results]


@pytest.mark.parametrize("association", ASSOCIATIONS)
@pytest.mark.parametrize("window", [0, 1, 3, 4, 40])
def test_ids_and_scores_stay(association: str, window: int) -> None:
    frames = video(4) + video(5, blobs=1)
    plain, sharp = (predictor(association, refine, window) for refine in (False, True))
    streams = plain.stream(frames), sharp.stream(frames)
    before, after = list(streams[0]), list(streams[1])
    assert who(before) == who(after)
    assert masks(before) != masks(after)
    assert streams[0].finish() == streams[1].finish()


@pytest.mark.parametrize(
    ("window", "seen"),
    [
        (0, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7)]),
        (3, [(0, 3), (3, 6), (4, 7)]),
        (2, [(0, 2), (1, 4), (3, 6), (4, 7)]),
        (40, [(0, 3), (3, 6), (4, 7)]),
    ],
)
def test_which_frames_the_refiner_sees(window: int, seen: list[tuple[int, int]]) -> None:
    frames = video(7)
    runner = predictor("bisoftmax", True, window)
    list(runner.stream(frames))
    pixels = torch.stack([torch.from_numpy(f).permute(2, 0, 1).float() for f in frames])
    windows = runner.model.refiner.windows
    assert len(windows) == len(seen)
    for given, (first, end) in zip(windows, seen, strict=True):
        assert torch.equal(given.maps.pixels[..., :72, :120], pixels[first:end])
        assert given.mask_stride == 4
        assert given.frame_size == SIZE
        assert given.mask_logits.shape == (2, end - first, 24, 32)


def test_a_saved_state_goes_on_to_the_bit(tmp_path: Path) -> None:
    frames = video(9)
    straight, before, after = (predictor("bisoftmax", True) for _ in range(3))
    expected = [straight.step(frame) for frame in frames]
    for frame in frames[:5]:
        before.step(frame)
    before.save_state(tmp_path / "live.pth")
    after.model.frames_seen = 5
    after.load_state(tmp_path / "live.pth")
    actual = [after.step(frame) for frame in frames[5:]]
    assert who(actual) == who(expected[5:])
    assert masks(actual) == masks(expected[5:])
    windows = straight.model.refiner.windows[5:]
    for given, again in zip(windows, after.model.refiner.windows, strict=True):
        assert torch.equal(given.query, again.query)
        assert torch.equal(given.mask_logits, again.mask_logits)
    assert after.finish() == straight.finish()


def record(index: int, ids: tuple[int, ...], scores: tuple[float, ...]) -> FrameLogits:
    rows = torch.tensor([float(track) for track in ids])
    return FrameLogits(
        index, ids, ids, scores, rows[:, None, None].expand(-1, 4, 4), 4, (16, 16),
        query=(10.0 * index + rows)[:, None].expand(-1, 2),
    )  # fmt: skip


def test_a_window_has_a_place_for_every_track_in_every_frame() -> None:
    records = [record(0, (2,), (0.9,)), record(1, (2, 7), (0.9, 0.9)), record(2, (7,), (0.9,))]
    maps = FrameMaps.stack([frame_maps(torch.zeros(3, 16, 16))] * 3)
    window = window_of(records, [2, 7], maps)
    expected = torch.tensor([[2, 2, ABSENT], [ABSENT, 7, 7]])
    assert torch.equal(window.mask_logits, expected[..., None, None].expand(-1, -1, 4, 4))
    assert window.query[:, 0].tolist() == [(2 + 12) / 2, (17 + 27) / 2]
    only = window_of(records, [7], maps)
    assert torch.equal(only.mask_logits, window.mask_logits[1:])
    assert torch.equal(only.query, window.query[1:])


def test_unsure_tracks_keep_their_masks() -> None:
    runner = predictor("embedding_hungarian", True)
    plain = predictor("embedding_hungarian", False)
    association = runner.options.association(runner.model)
    coarse = plain.options.association(plain.model)
    frame = torch.from_numpy(video(1, blobs=1)[0]).permute(2, 0, 1)[None]
    outputs = runner.model.segment_frames(frame)
    association.add(0, outputs)
    coarse.add(0, outputs)
    (after,), (before,) = association.pop_frames(1), coarse.pop_frames(1)
    assert after.track_ids == before.track_ids
    sure = torch.tensor(before.scores) > MIN_SCORE
    assert sure.tolist() == [True, False, False]
    doubled = F.interpolate(before.logits[None], scale_factor=2, mode="bilinear")[0]
    assert torch.equal(after.logits[sure], 2 * doubled[sure])
    assert torch.equal(after.logits[~sure], doubled[~sure])
    assert (after.mask_stride, after.upsampling) == (2, "aligned")


def test_a_video_without_tracks() -> None:
    runner = predictor("bisoftmax", True)
    empty = [np.full((*SIZE, 3), 90, np.uint8)] * 3
    assert all(not result.tracks for result in runner.stream(empty))
    assert runner.model.refiner.windows == []


def test_a_window_has_a_frame() -> None:
    with pytest.raises(ConfigError, match="REFINE_WINDOW is 0"):
        PredictorOptions(refine_window=0)
