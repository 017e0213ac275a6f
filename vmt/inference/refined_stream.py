"""The tracks of a video with masks that a mask refiner sharpened, frame by frame as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import tee

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.inference.association.base import TrackSummary
from vmt.inference.association.sharpened import MIN_SCORE
from vmt.inference.mask_refiner import FrameRefiner, RefinedFrame
from vmt.inference.predictor import FrameResult, TrackMask, TrackStream
from vmt.inference.refine_defaults import ACCEPT, WINDOW
from vmt.structures.masks import decode_crop
from vmt.utils.errors import VmtError

Frame = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

#: Tracklets that a refiner sees at least, most of them empty in most frames.
ROWS = 8
#: Frames without a mask after which another track may have a tracklet: more than refiners look
#: ahead and back, or the one would be taken for the other.
APART = 16


class Rows:
    """Which of a fixed number of tracklets each track of a video is.

    Args:
        count: tracklets.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._row_of: dict[int, int] = {}
        self._seen: dict[int, int] = {}  # track -> the latest frame

    def place(self, frame: int, tracks: list[int]) -> dict[int, int] | None:
        """A tracklet for each track of a frame; None where there are too few.

        Args:
            frame: its index, ascending.
            tracks: their ids.
        """
        for track in [k for k, seen in self._seen.items() if frame - seen > APART]:
            del self._row_of[track], self._seen[track]
        taken = set(self._row_of.values())
        free = (row for row in range(self.count) if row not in taken)
        for track in tracks:
            row = self._row_of.get(track)
            if row is None and (row := next(free, None)) is None:
                return None
            self._row_of[track], self._seen[track] = row, frame
        return {track: self._row_of[track] for track in tracks}


@dataclass(frozen=True)
class _Waiting:
    """A frame that the refiner has, and which tracklet each track is that is sharpened."""

    result: FrameResult
    rows: dict[int, int]


class RefinedStream(Iterator[FrameResult]):
    """The frames of a ``TrackStream``, the masks of its tracks sharpened.

    The refiner sees one video of a fixed number of tracklets, each a track for as long as that
    lives and later another: memory does not grow with the video. Where more tracks are seen at a
    time than it has tracklets, it starts anew with more. Frames come as late as it wants to know
    the frames behind them. When the source breaks off, the frames before come first, as in
    ``TrackStream``. Tracks below ``MIN_SCORE``, which are in no result, keep their masks.

    Attributes:
        seconds: those of the stream, and "refine".

    Args:
        stream: has frames.
        refiner: sharpens masks.
        keep_frames: give the frames back.
    """

    def __init__(
        self, stream: TrackStream, refiner: FrameRefiner, *, keep_frames: bool = False
    ) -> None:
        self.seconds = stream.seconds
        self.seconds["refine"] = 0.0
        self._stream = stream
        self._refiner = refiner
        self._keep = keep_frames
        self._rows = Rows(ROWS)
        self._next: FrameResult | None = None  # read, but not given to the refiner
        self._error: VmtError | None = None
        self._waiting: deque[_Waiting] = deque()
        self._reading = 0.0  # seconds in the stream
        self._frames: Generator[FrameResult, None, None] = self._run()

    def __next__(self) -> FrameResult:
        started, before = time.perf_counter(), self._reading
        try:
            return next(self._frames)
        finally:
            spent = time.perf_counter() - started
            self.seconds["refine"] += spent - (self._reading - before)

    def finish(self) -> list[TrackSummary]:
        """See ``TrackStream.finish``; with the tracks that ended in frames which still wait."""
        self._frames.close()
        results = [waiting.result for waiting in self._waiting]
        if self._next is not None:
            results.append(self._next)
        ended = [summary for result in results for summary in result.closed]
        return [*ended, *self._stream.finish()]

    def _run(self) -> Generator[FrameResult, None, None]:
        self._read()
        while self._next is not None:
            self._rows = Rows(max(self._rows.count, 2 * len(self._next.tracks)))
            frames, masks = tee(self._tracklets())
            refined = self._refiner.stream(
                (frame for frame, _ in frames),
                (mask for _, mask in masks),
                accept=ACCEPT,
                window=WINDOW,
            )
            for sharp in refined:
                yield self._sharpened(self._waiting.popleft(), sharp)
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        started = time.perf_counter()
        try:
            self._next = next(self._stream, None)
        except VmtError as error:
            self._next, self._error = None, error
        self._reading += time.perf_counter() - started

    def _tracklets(self) -> Iterator[tuple[Frame, BoolArray]]:
        """Frames and their masks, until there are too many tracks."""
        while (result := self._next) is not None:
            sure = [track for track in result.tracks if track.score > MIN_SCORE]
            rows = self._rows.place(result.index, [track.track_id for track in sure])
            if rows is None:
                return
            assert result.frame is not None, "the stream keeps its frames"
            masks = np.zeros((self._rows.count, *result.frame.shape[:2]), np.bool_)
            for track in sure:
                masks[rows[track.track_id]] = rle.decode(track.rle)
            self._waiting.append(_Waiting(result, rows))
            self._next = None
            yield result.frame, masks
            self._read()

    def _sharpened(self, waiting: _Waiting, sharp: RefinedFrame) -> FrameResult:
        """The frame with its new masks; a track keeps one that is unchanged or would vanish."""
        result = waiting.result
        tracks = tuple(self._with_mask(track, waiting.rows, sharp) for track in result.tracks)
        return replace(result, tracks=tracks, frame=result.frame if self._keep else None)

    @staticmethod
    def _with_mask(track: TrackMask, rows: Mapping[int, int], sharp: RefinedFrame) -> TrackMask:
        row = rows.get(track.track_id)
        if row is None or not sharp.changed_px[row] or not sharp.masks[row].any():
            return track
        coded = rle.encode(sharp.masks[row])
        crop = decode_crop(coded)
        return replace(track, rle=coded, box_xyxy_px=crop.box_xyxy_px(), area=crop.area)
