"""The stream over a video: order, laziness, whole-video rules, sizes, errors, flat memory."""

import gc
import json
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.inference.fake_model import LABELS, BlobModel, blob_video
from vmt.config.defaults import default_config
from vmt.inference import predictor as predictor_module
from vmt.inference.predictor import (
    FrameResult,
    PredictorOptions,
    VideoPredictor,
    resize_frame,
)
from vmt.inference.results import ResultsWriter
from vmt.structures.masks import decode_masks
from vmt.structures.predictions import ClipTracklets
from vmt.utils.atomic import DiskReserve
from vmt.utils.errors import ConfigError, VideoError

SIZE = (72, 120)


def frames(count: int, blobs: int = 2) -> list[np.ndarray]:
    return [f.numpy() for f in blob_video(count, SIZE, blobs)]


def predictor(model: BlobModel, window: int = 5, **options: object) -> VideoPredictor:
    return VideoPredictor(model, PredictorOptions(window=window, min_size=72, **options))


def summaries(results: list[FrameResult]) -> dict[int, list[tuple[int, float]]]:
    return {
        s.track_id: [(c.label, round(c.score, 4)) for c in s.classes]
        for r in results
        for s in r.closed
    }


@pytest.mark.parametrize("stride", [2, 8])
@pytest.mark.parametrize("window", [0, 2, 5, 13, 40])
def test_masks_do_not_depend_on_the_window(window: int, stride: int) -> None:
    video = frames(13)
    results = list(predictor(BlobModel(stride), window).stream(video))
    assert [r.index for r in results] == list(range(13))
    for t, result in enumerate(results):
        assert [track.track_id for track in result.tracks] == [1, 2]
        red, green = decode_masks([track.rle for track in result.tracks], SIZE).numpy()
        truth = (video[t][..., 0] == 255) & (video[t][..., 1] == 0)
        assert (red & truth).sum() / (red | truth).sum() > (0.8 if stride == 2 else 0.5)
        assert green.sum() == result.tracks[1].area
        x1, y1, x2, y2 = result.tracks[0].box_xyxy_px
        assert red[y1:y2, x1:x2].sum() == result.tracks[0].area == red.sum()
    best = {i: classes[0] for i, classes in summaries(results).items()}
    assert best == {1: (0, 0.91), 2: (1, 0.91)}


def test_masks_of_frames_that_were_resized_before() -> None:
    """As large as the original: what a mask at the size of the frames would be, enlarged."""
    video, size = frames(4), (2 * SIZE[0], 2 * SIZE[1])
    small = list(predictor(BlobModel()).stream(video))
    large = list(predictor(BlobModel()).stream(video, mask_size=size))
    for a, b in zip(small, large, strict=True):
        for one, other in zip(a.tracks, b.tracks, strict=True):
            assert other.rle["size"] == list(size)
            assert other.area == pytest.approx(4 * one.area, rel=0.1)
            ends = [2 * end for end in one.box_xyxy_px]
            assert other.box_xyxy_px == pytest.approx(ends, abs=2)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 4)])
def test_windows_that_share_no_frame_are_one_video(window: int, stride: int) -> None:
    options = {"stride": stride, "similarity_weight": 1.0}
    results = list(predictor(BlobModel(), window, **options).stream(frames(9)))
    assert {tuple(t.track_id for t in r.tracks) for r in results} == {(1, 2)}
    assert all(not r.closed for r in results[:-1])
    assert sorted(summaries(results)) == [1, 2]


def test_an_object_that_leaves_and_another_that_comes() -> None:
    video = frames(8, blobs=1) + frames(8, blobs=0) + [f.numpy() for f in blob_video(8, SIZE, 1)]
    results = list(predictor(BlobModel(), 3).stream(video))
    seen = [tuple(t.track_id for t in r.tracks) for r in results]
    # The windows between see nothing, so there is nothing to link the second object to.
    assert (seen[0], seen[10]) == ((1,), ())
    assert len(seen[20]) == 1
    assert seen[20] != (1,)
    closed_at = {s.track_id: r.index for r in results for s in r.closed}
    assert closed_at[1] < 16
    assert set(closed_at) == {1, seen[20][0]}


def test_whole_video_rules() -> None:
    """Empty tubes are dropped although their query is among the best pairs."""
    results = list(predictor(BlobModel(), 0).stream(frames(6)))
    assert summaries(results) == {
        1: [(0, 0.91), (1, 0.01), (2, 0.01)],
        2: [(1, 0.91), (0, 0.01), (2, 0.01)],
    }
    assert all(not r.closed for r in results[:-1])
    few = list(predictor(BlobModel(), 0, top_k=2).stream(frames(6)))
    assert summaries(few) == {1: [(0, 0.91)], 2: [(1, 0.91)]}


def test_frames_are_pulled_lazily_and_in_pieces() -> None:
    read: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for t, frame in enumerate(frames(50)):
            read.append(t)
            yield frame

    model = BlobModel()
    stream = predictor(model, 5).stream(source())
    assert read == []
    next(stream)
    assert len(read) == 9
    assert model.clips == [5]


@pytest.mark.parametrize("window", [0, 4])
def test_originals_come_back_on_demand(window: int) -> None:
    video = frames(9)
    for source in (video, iter(video)):
        results = list(predictor(BlobModel(), window).stream(source, keep_frames=True))
        assert all(np.array_equal(r.frame, f) for r, f in zip(results, video, strict=True))
    assert all(r.frame is None for r in predictor(BlobModel(), window).stream(video))


def test_two_streams_at_once() -> None:
    both = predictor(BlobModel(), 3)
    one, two = both.stream(frames(7)), both.stream(frames(7))
    for a, b in zip(one, two, strict=True):
        assert a == b


@pytest.mark.usefixtures("coded_behind")
@pytest.mark.parametrize("behind", [False, True])
def test_a_source_that_breaks_off(behind: bool) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from frames(7)
        raise VideoError("cut short")

    stream = predictor(BlobModel(), 5).stream(source(), behind=behind)
    results: list[FrameResult] = []
    with pytest.raises(VideoError, match="cut short"):
        results.extend(stream)
    assert [r.index for r in results] == list(range(7))
    assert set(summaries(results)) == {1, 2}
    assert stream.finish() == []


@pytest.mark.usefixtures("coded_behind")
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("window", [0, 5])
def test_stopping_early_gives_the_scores_so_far(window: int, behind: bool) -> None:
    stream = predictor(BlobModel(), window).stream(frames(20), behind=behind)
    for _ in range(7):
        next(stream)
    assert [s.track_id for s in stream.finish()] == [1, 2]
    assert list(stream) == []


def test_sizes_must_not_change() -> None:
    video = [*frames(3), np.zeros((72, 121, 3), np.uint8)]
    with pytest.raises(VideoError, match="121x72 pixels follows frames of 120x72"):
        list(predictor(BlobModel(), 2).stream(video))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (37, 91), (90, 3)])
def test_any_size_runs(size: tuple[int, int]) -> None:
    video = [np.full((*size, 3), (255, 0, 0), np.uint8)] * 4
    results = list(VideoPredictor(BlobModel(8), PredictorOptions(3, min_size=24)).stream(video))
    assert [r.tracks[0].area for r in results] == [size[0] * size[1]] * 4


def test_no_frames_no_results() -> None:
    assert list(predictor(BlobModel(), 5).stream([])) == []
    assert list(predictor(BlobModel(), 0).stream([])) == []


def test_out_of_memory_says_what_to_do() -> None:
    class Hungry(BlobModel):
        def segment_clip(self, frames: torch.Tensor) -> ClipTracklets:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"3 frames of 120x72 pixels .* smaller TEST.WINDOW"):
        list(predictor(Hungry(), 3).stream(frames(3)))


def test_resize_is_the_releases() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((480, 854), (480, 853), (854, 480), (100, 100), (31, 77)):
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        short, long = min(height, width), max(height, width)
        target = int(360 * long / short)
        size = (target, 360) if width >= height else (360, target)
        expected = np.asarray(Image.fromarray(frame).resize(size, Image.BILINEAR))
        np.testing.assert_array_equal(resize_frame(frame, 360), expected)


def test_the_long_side_can_be_bounded() -> None:
    assert resize_frame(np.zeros((100, 1000, 3), np.uint8), 360, 1000).shape == (100, 1000, 3)
    assert resize_frame(np.zeros((1, 5000, 3), np.uint8), 360, 1000).shape == (1, 1000, 3)
    with pytest.raises(VideoError, match=r"INPUT\.MAX_SIZE_TEST"):
        resize_frame(np.zeros((1, 100, 3), np.uint8), 360)


def test_options_come_from_the_config() -> None:
    cfg = default_config()
    cfg.TEST.WINDOW, cfg.TEST.STRIDE, cfg.INPUT.MIN_SIZE_TEST = 6, 2, 480
    options = PredictorOptions.from_config(cfg)
    assert (options.window, options.step, options.min_size) == (6, 2, 480)
    cfg.TEST.WINDOW, cfg.TEST.STRIDE = 1, 0
    assert PredictorOptions.from_config(cfg).similarity_weight > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4, "stride": 5}, "frames between windows would be skipped"),
        ({"window": 4, "stride": 4}, "share no frame"),
        ({"window": 1}, "share no frame"),
        ({"window": -1}, "must not be negative"),
        ({"top_k": 0}, "at least"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictorOptions(**options)


def test_default_step() -> None:
    steps = [PredictorOptions(window=w, similarity_weight=1.0).step for w in (0, 1, 2, 10)]
    assert steps == [0, 1, 1, 9]


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Objects come and go for 600 frames; results are spooled, Python holds no more at the end."""
    video = [f.numpy() for f in blob_video(60, (48, 64), blobs=2)] + frames_of_grey(4)

    def endless() -> Iterator[np.ndarray]:
        for _ in range(10):
            yield from video

    reserve = DiskReserve(tmp_path)
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    writer.begin_video(FakeSource((48, 64)))
    stream = VideoPredictor(BlobModel(8), PredictorOptions(3, min_size=48)).stream(endless())
    tracemalloc.start()
    held = []
    for result in stream:
        writer.add(result)
        if result.index % 64 == 40:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    writer.end_video()
    writer.close()
    reserve.close()
    # Bytes. Kept run lengths alone would be over 100,000.
    assert max(held[1:]) - min(held[1:]) < 16_000
    entries = json.loads((tmp_path / "results.json").read_text())
    assert len(entries) == 20  # two objects, ten times
    assert all(len(e["segmentations"]) == 640 for e in entries)


def frames_of_grey(count: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 120, np.uint8)] * count


@dataclass
class FakeSource:
    size: tuple[int, int]
    name: str = "loop"
    fps: float = 10.0
    num_frames: int | None = None
    video_id: int = 1
    complete_length: bool = False
    rereadable: bool = True

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(())


@pytest.fixture
def coded_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a thread codes the masks of a window while the next one is computed."""
    monkeypatch.setattr(predictor_module, "behind_frames", lambda options, device: 4)


@pytest.mark.usefixtures("coded_behind")
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("keep_frames", [True, False])
def test_masks_that_are_coded_behind_are_the_same(window: int, keep_frames: bool) -> None:
    video = frames(13)
    straight, behind = (
        list(predictor(BlobModel(), window).stream(video, keep_frames=keep_frames, behind=late))
        for late in (False, True)
    )
    for one, other in zip(straight, behind, strict=True):
        assert (one.index, one.tracks, one.closed) == (other.index, other.tracks, other.closed)
        assert (one.frame is None) == (other.frame is None) == (not keep_frames)
        assert one.frame is None or np.array_equal(one.frame, other.frame)


@pytest.mark.usefixtures("coded_behind")
@pytest.mark.parametrize("behind", [False, True])
def test_frames_are_resized_ahead_in_a_thread(
    behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize, resized, here = predictor_module.resize_frame, [], threading.get_ident()

    def noted(*args: Any) -> np.ndarray:
        resized.append(threading.get_ident())
        return resize(*args)

    monkeypatch.setattr(predictor_module, "resize_frame", noted)
    before = threading.active_count()
    stream = predictor(BlobModel(), 3).stream(frames(60), behind=behind)
    for _ in range(2):
        next(stream)
    stream.finish()
    assert {thread == here for thread in resized} == {not behind}
    assert len(resized) < 30, "no further ahead than asked for"
    assert threading.active_count() == before


@pytest.mark.usefixtures("coded_behind")
def test_tracks_that_ended_in_frames_ahead_are_not_lost() -> None:
    nothing = [np.zeros((*SIZE, 3), np.uint8)] * 12
    stream = predictor(BlobModel(), 4).stream([*frames(4), *nothing], behind=True)
    results = [next(stream) for _ in range(5)]  # they end behind the ninth, which waits
    assert [len(result.tracks) for result in results] == [2, 2, 2, 2, 0]
    assert not summaries(results)
    assert [summary.track_id for summary in stream.finish()] == [1, 2]


def test_a_cpu_codes_masks_at_once() -> None:
    options = PredictorOptions(window=36, stride=30)
    assert predictor_module.behind_frames(options, torch.device("cpu")) == 0
    assert predictor_module.behind_frames(options, torch.device("cuda")) == 30
    whole = PredictorOptions(window=0)
    assert predictor_module.behind_frames(whole, torch.device("cuda")) == 1
