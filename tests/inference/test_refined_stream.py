"""Sharpened tracks, compared with one call of the refiner per video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.cli.test_refine import Shave, shaved
from tests.inference.fake_model import BlobFrameModel, blob_video
from vmt.inference.association.base import ClassScore, TrackSummary
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.predictor import (
    FrameResult,
    PredictorOptions,
    TrackMask,
    TrackStream,
    VideoPredictor,
)
from vmt.inference.refined_stream import APART, ROWS, RefinedStream, Rows
from vmt.utils.errors import VideoError

SIZE = (40, 64)


class Tracks(Iterator[FrameResult]):
    """In place of a ``TrackStream``: squares that some tracks are in some frames.

    Args:
        frames: ids of the tracks of each frame; a track stands always at the same place.
        breaks: raise a VideoError behind them.
    """

    def __init__(self, frames: list[list[int]], *, breaks: bool = False) -> None:
        self.seconds = {"read": 0.0}
        self.read = 0
        self._frames = frames
        self._breaks = breaks

    def __next__(self) -> FrameResult:
        if self.read == len(self._frames):
            if self._breaks:
                raise VideoError("it breaks off")
            raise StopIteration
        t, self.read = self.read, self.read + 1
        tracks = tuple(TrackMask(k, 0, 0.9, square(k), (0, 0, 1, 1), 64) for k in self._frames[t])
        before = self._frames[t - 1] if t else []
        ended = tuple(summary(k) for k in before if k not in self._frames[t])
        return FrameResult(t, tracks, ended, np.full((*SIZE, 3), t % 256, np.uint8))

    def finish(self) -> list[TrackSummary]:
        return [summary(k) for k in self._frames[max(self.read - 1, 0)]]


def summary(track: int) -> TrackSummary:
    return TrackSummary(track, (ClassScore(0, 0.9),))


def square(track: int) -> rle.Rle:
    mask = np.zeros(SIZE, bool)
    y, x = 8 * (track // 6 % 4), 10 * (track % 6)
    mask[y : y + 8, x : x + 8] = True
    return rle.encode(mask)


def sharpened(stream: Tracks, refiner: object, **how: bool) -> RefinedStream:
    return RefinedStream(stream, refiner, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 5, ROWS + 3])
def test_every_mask_is_refined_and_nothing_else_changes(most: int) -> None:
    rng = np.random.default_rng(most)
    frames = [sorted(rng.choice(24, rng.integers(0, most + 1), False).tolist()) for _ in range(60)]
    given = list(Tracks(frames))
    results = list(sharpened(Tracks(frames), Shave()))
    assert [result.index for result in results] == list(range(60))
    for before, after in zip(given, results, strict=True):
        assert after.frame is None
        assert after.closed == before.closed
        assert len(after.tracks) == len(before.tracks)
        for old, new in zip(before.tracks, after.tracks, strict=True):
            assert replace(new, rle=old.rle, box_xyxy_px=old.box_xyxy_px, area=old.area) == old
            assert np.array_equal(rle.decode(new.rle), shaved(rle.decode(old.rle)))
            assert new.area == 36
            x1, y1, x2, y2 = new.box_xyxy_px
            assert rle.to_box(new.rle) == (x1, y1, x2 - x1, y2 - y1)


def test_a_video_is_one_stream_until_it_has_more_tracks_than_tracklets() -> None:
    few, many = [[1, 2]] * 20, [list(range(ROWS + 1))] * 5
    refiner = Shave()
    list(sharpened(Tracks([*few, *many, *few, *many]), refiner))
    assert [len(video) for video in refiner.videos] == [20, 30]


def test_two_tracks_share_a_tracklet_only_far_apart() -> None:
    rows = Rows(2)
    assert rows.place(0, [7, 3]) == {7: 0, 3: 1}
    assert rows.place(1, [3]) == {3: 1}
    assert rows.place(APART, [5]) is None
    rows = Rows(2)
    assert rows.place(0, [7, 3]) == {7: 0, 3: 1}
    assert rows.place(2, [3]) == {3: 1}
    assert rows.place(APART + 1, [3, 5]) == {3: 1, 5: 0}
    assert rows.place(APART + 2, [7]) is None


def test_memory_does_not_grow_with_the_number_of_tracks() -> None:
    """A new track every three frames, for long."""
    seen: list[int] = []

    class Count(Shave):
        def _refine(self, masks: np.ndarray) -> object:
            seen.append(len(masks))
            return super()._refine(masks)

    refiner = Count()
    list(sharpened(Tracks([[t // 3] for t in range(300)]), refiner))
    assert set(seen) == {ROWS}
    assert len(refiner.videos) == 1


def test_frames_before_a_break_come_first() -> None:
    stream = sharpened(Tracks([[1]] * 5, breaks=True), Shave())
    for t in range(5):
        assert next(stream).index == t
    with pytest.raises(VideoError, match="breaks off"):
        next(stream)
    assert [ended.track_id for ended in stream.finish()] == [1]


def test_tracks_that_end_in_frames_which_wait_are_not_lost() -> None:
    """The refiner looks two frames ahead; the caller stops after the first."""
    stream = sharpened(Tracks([[1, 2], [2], [2, 3], [3], [4]]), Shave())
    assert next(stream).closed == ()
    assert sorted(ended.track_id for ended in stream.finish()) == [1, 2, 3]
    with pytest.raises(StopIteration):
        next(stream)


def test_originals_and_times() -> None:
    stream = sharpened(Tracks([[1]] * 3), Shave(), keep_frames=True)
    assert [result.frame[0, 0, 0] for result in stream if result.frame is not None] == [0, 1, 2]
    assert stream.seconds["refine"] > 0


def test_what_no_result_shows_is_not_sharpened() -> None:
    class Unsure(Tracks):
        def __next__(self) -> FrameResult:
            result = super().__next__()
            first, *rest = result.tracks
            return replace(result, tracks=(replace(first, score=0.05), *rest))

    (result,) = sharpened(Unsure([[1, 2]]), Shave())
    weak, sure = result.tracks
    assert weak.rle == square(1)
    assert np.array_equal(rle.decode(sure.rle), shaved(rle.decode(square(2))))


def test_what_would_vanish_stays() -> None:
    class Gone(Shave):
        def _refine(self, masks: np.ndarray) -> object:
            return replace(super()._refine(masks), masks=np.zeros_like(masks))

    (result,) = sharpened(Tracks([[1]]), Gone())
    assert result.tracks[0].rle == square(1)


@pytest.mark.slow
def test_the_refiner_of_the_package_on_tracks_of_a_network(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same as one call with a tracklet per track."""
    caplog.set_level(logging.ERROR)
    video = [frame.numpy() for frame in blob_video(6, (48, 80))]
    refiner = MaskRefiner.from_pretrained(device="cpu")

    def tracks() -> TrackStream:
        predictor = VideoPredictor(BlobFrameModel(), PredictorOptions(min_size=48))
        return predictor.stream(video, keep_frames=True)

    plain = list(tracks())
    ids = sorted({track.track_id for result in plain for track in result.tracks})
    masks = np.zeros((len(ids), len(video), 48, 80), bool)
    for result in plain:
        for track in result.tracks:
            masks[ids.index(track.track_id), result.index] = rle.decode(track.rle)
    expected = refiner.refine(video, masks)
    assert (expected.masks != masks).any()
    for result in RefinedStream(tracks(), refiner):
        for track in result.tracks:
            mask = expected.masks[ids.index(track.track_id), result.index]
            assert np.array_equal(rle.decode(track.rle), mask)
