"""A network that sees frame by frame, through everything that runs videos."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inference.fake_model import BlobFrameModel, BlobModel, blob_video
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.inference.windows import iter_chunks
from vmt.structures.masks import decode_masks
from vmt.utils.errors import CheckpointError, ConfigError, VideoError

SIZE = (72, 120)
ASSOCIATIONS = ["bisoftmax", "embedding_hungarian", "quasi_dense"]


def frames(count: int, blobs: int = 2) -> list[np.ndarray]:
    return [frame.numpy() for frame in blob_video(count, SIZE, blobs)]


def predictor(association: str = "bisoftmax", window: int = 0, **options) -> VideoPredictor:
    settings = PredictorOptions(window=window, min_size=72, **options)
    return VideoPredictor(BlobFrameModel(association), settings)


def outline(results: list[FrameResult]) -> list[tuple]:
    return [
        (r.index, [(t.track_id, t.label, round(t.score, 5), t.rle["counts"]) for t in r.tracks])
        for r in results
    ]


@pytest.mark.parametrize("association", ASSOCIATIONS)
def test_colours_are_tracks(association: str) -> None:
    video = frames(7)
    runner = predictor(association)
    stream = runner.stream(video)
    results = list(stream)
    assert runner.model.calls == [1] * 7
    for t, result in enumerate(results):
        masks = dict(zip([x.label for x in result.tracks], result.tracks, strict=True))
        assert sorted(masks) == [0, 1]
        assert masks[0].track_id != masks[1].track_id
        assert masks[0].track_id == next(x for x in results[0].tracks if x.label == 0).track_id
        (red,) = decode_masks([masks[0].rle], SIZE).numpy()
        truth = (video[t][..., 0] == 255) & (video[t][..., 1] == 0)
        assert (red & truth).sum() / (red | truth).sum() > 0.8
    assert all(not r.closed for r in results)
    assert {s.classes[0].label for s in stream.finish()} == {0, 1}


@pytest.mark.parametrize("association", ASSOCIATIONS)
@pytest.mark.parametrize("window", [1, 3, 40])
def test_windows_change_nothing(association: str, window: int) -> None:
    options = {"similarity_weight": 1.0} if window == 1 else {}
    chunked = predictor(association, window, **options).stream(frames(10))
    single = predictor(association).stream(frames(10))
    assert outline(list(chunked)) == outline(list(single))
    assert chunked.finish() == single.finish()


def test_a_frame_is_out_before_the_next_is_read() -> None:
    read: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for t, frame in enumerate(frames(5)):
            read.append(t)
            yield frame

    stream = predictor().stream(source(), keep_frames=True)
    for t in range(5):
        assert next(stream).frame is not None
        assert read == list(range(t + 1))


def test_chunks_end_with_the_source() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise VideoError("cut short")

    chunks = iter_chunks(source(), 2)
    assert [next(chunks).frames for _ in range(3)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(VideoError, match="cut short"):
        next(chunks)


@pytest.mark.parametrize("association", ASSOCIATIONS)
def test_a_saved_state_goes_on_to_the_bit(association: str, tmp_path: Path) -> None:
    video = frames(9, blobs=1) + frames(5)
    straight, before, after = (predictor(association) for _ in range(3))
    expected = [straight.step(frame) for frame in video]
    assert outline(expected) == outline(list(predictor(association).stream(video)))
    for frame in video[:6]:
        before.step(frame)
    before.save_state(tmp_path / "live.pth")
    after.model.frames_seen = 6
    after.load_state(tmp_path / "live.pth")
    assert outline([after.step(frame) for frame in video[6:]]) == outline(expected[6:])
    assert after.finish() == straight.finish()
    assert [r.index for r in map(after.step, video[:2])] == [0, 1], "a new video after finish"


def test_what_a_live_video_refuses(tmp_path: Path) -> None:
    live = predictor()
    live.step(frames(1)[0])
    with pytest.raises(VideoError, match="one video has one size"):
        live.step(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="sees whole clips"):
        VideoPredictor(BlobModel()).step(frames(1)[0])
    live.save_state(tmp_path / "live.pth")
    with pytest.raises(CheckpointError, match="no state of a live video"):
        predictor("embedding_hungarian").load_state(tmp_path / "live.pth")
    (tmp_path / "no.pth").write_bytes(b"no state")
    for name in ("no.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match=name):
            live.load_state(tmp_path / name)


def test_the_config_chooses_the_association() -> None:
    model = BlobFrameModel("bisoftmax")
    options = PredictorOptions(frame_association="embedding_hungarian")
    assert type(options.association(model)).__name__ == "EmbeddingHungarianAssociation"
    assert type(PredictorOptions().association(model)).__name__ == "BisoftmaxAssociation"
    with pytest.raises(ConfigError, match=r"TEST\.ASSOCIATION: 'sort' does not exist; known are b"):
        PredictorOptions(frame_association="sort").association(model)


def test_two_thousand_frames_in_flat_memory() -> None:
    """Objects come and go, so tracks are closed and forgotten; ids are never used again."""
    red, blue = frames(1, blobs=1)[0], frames(1, blobs=3)[0]
    grey = frames(1, blobs=0)[0]

    def source() -> Iterator[np.ndarray]:
        for t in range(2000):
            yield (red, grey, blue, grey)[t // 12 % 4]

    peaks, closed = [], []
    model = BlobFrameModel()
    stream = VideoPredictor(model, PredictorOptions(min_size=32)).stream(source())
    tracemalloc.start()
    for result in stream:
        closed += [summary.track_id for summary in result.closed]
        if result.index in (400, 1999):
            gc.collect()
            peaks.append(tracemalloc.get_traced_memory()[0])
            model.calls.clear()
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
    closed += [summary.track_id for summary in stream.finish()]
    assert len(closed) == len(set(closed))
    assert len(closed) > 60


def test_predict_gives_the_frames() -> None:
    model = BlobFrameModel().eval()
    clip = torch.stack([torch.from_numpy(f) for f in frames(3)]).permute(0, 3, 1, 2)
    (answer,) = model([{"image": clip}])
    assert [len(frame.logits) for frame in answer["frames"]] == [3, 3, 3]
