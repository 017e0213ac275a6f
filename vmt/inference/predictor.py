"""The network over a video of any length: frames in, finished frames with their masks out."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vmt.config.compat import behaviour
from vmt.inference.association.base import (
    Association,
    FrameLogits,
    ResumableAssociation,
    TrackSummary,
)
from vmt.inference.association.bisoftmax import BisoftmaxOptions
from vmt.inference.association.refinevis import RefineVISOptions
from vmt.inference.association.registry import frame_association
from vmt.inference.association.whole_video import WholeVideoAssociation
from vmt.inference.association.windows import WindowAssociation
from vmt.inference.postprocess import masks_of_frames
from vmt.inference.threads import ReadAhead, map_behind
from vmt.inference.windows import Window, iter_chunks, iter_windows
from vmt.modeling.tracking.quasi_dense import QuasiDenseOptions
from vmt.modeling.video_model import (
    ClipModel,
    FrameModel,
    FrameOutputs,
    MaskRefinerModel,
    Segmenter,
    VideoModel,
)
from vmt.ops.resize import network_size
from vmt.structures.masks import MaskCrop, Rle, encode_crop
from vmt.structures.predictions import ClipTracklets
from vmt.utils.atomic import AtomicFile
from vmt.utils.device import to_device
from vmt.utils.errors import CheckpointError, ConfigError, VideoError

logger = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]

#: Longest side that a resized frame may have, in pixels: beyond it memory is the video's fault.
MAX_LONG_SIDE = 8192


@dataclass(frozen=True)
class PredictorOptions:
    """How a video is cut, resized and put together again.

    Args:
        window: frames per window; 0: the whole video at once, by the rules of the release. A
            network for frames gets windows that share none, 0 means one frame at a time; its
            association may ask for another number.
        stride: step between windows, at most ``window``; 0: ``window - 1``.
        top_k: (query, class) pairs kept of a whole video; windows are limited by the network.
        min_size: short side of the network's input in pixels.
        max_size: bound of its long side in pixels; 0: none.
        crop_to_input: False stretches masks as the release does
            (docs/reference/released_code.md#odd-sizes).
        min_score: (track, class) pairs kept of a video in windows, in [0, 1].
        link_threshold: lowest affinity that joins two tracklets.
        similarity_weight: weight of the query similarity in the affinity; 0 is the published rule.
        frame_association: how frames of a network for frames become tracks; "auto": as its method
            is published, see ``association.registry``.
        bisoftmax: of the association of that name.
        quasi_dense: likewise.
        refinevis: likewise.
        refine_window: frames that the refiner of a network for frames reads together.

    Raises:
        ConfigError: values that contradict each other.
    """

    window: int = 0
    stride: int = 0
    top_k: int = 10
    min_size: int = 360
    max_size: int = 0
    crop_to_input: bool = True
    min_score: float = 0.05
    link_threshold: float = 0.01
    similarity_weight: float = 0.0
    frame_association: str = "auto"
    bisoftmax: BisoftmaxOptions = field(default_factory=BisoftmaxOptions)
    quasi_dense: QuasiDenseOptions = field(default_factory=QuasiDenseOptions)
    refinevis: RefineVISOptions = field(default_factory=RefineVISOptions)
    refine_window: int = 5

    def __post_init__(self) -> None:
        if self.window < 0 or self.stride < 0:
            raise ConfigError(
                f"TEST.WINDOW {self.window} and TEST.STRIDE {self.stride} must not be negative."
            )
        if self.window and self.stride > self.window:
            raise ConfigError(
                f"TEST.STRIDE {self.stride} is longer than TEST.WINDOW {self.window}: frames "
                "between windows would be skipped; choose at most WINDOW - 1."
            )
        if self.window and self.step == self.window and self.similarity_weight <= 0:
            raise ConfigError(
                f"windows of {self.window} frames, {self.step} apart, share no frame to link by; "
                "choose TEST.STRIDE below TEST.WINDOW, or a similarity_weight above 0."
            )
        if self.min_size < 1 or self.max_size < 0 or self.top_k < 1:
            raise ConfigError(
                f"INPUT.MIN_SIZE_TEST {self.min_size} and TEST.TOP_K {self.top_k} must be at least "
                f"1, INPUT.MAX_SIZE_TEST {self.max_size} at least 0."
            )
        if self.refine_window < 1:
            raise ConfigError(f"TEST.REFINE_WINDOW is {self.refine_window}; give at least 1.")

    @property
    def step(self) -> int:
        """Frames from one window to the next; 0 for the whole video at once."""
        return self.stride or max(self.window - 1, min(self.window, 1))

    @property
    def whole_video(self) -> bool:
        """Whether no frame comes out before the last one went in."""
        return not self.window

    def association(self, model: Segmenter) -> Association[Any]:
        """What makes tracks of one video: the one place where a strategy is chosen."""
        if isinstance(model, FrameModel):
            return frame_association(self, model)
        if self.whole_video:
            return WholeVideoAssociation(self.top_k)
        return WindowAssociation(
            threshold=self.link_threshold,
            similarity_weight=self.similarity_weight,
            min_score=self.min_score,
        )

    @classmethod
    def from_config(cls, cfg: Any) -> PredictorOptions:
        """Options of a config; windows of one frame are linked by their queries alone."""
        return cls(
            window=cfg.TEST.WINDOW,
            stride=cfg.TEST.STRIDE,
            top_k=cfg.TEST.TOP_K,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            crop_to_input=behaviour(cfg).crop_to_input,
            similarity_weight=1.0 if cfg.TEST.WINDOW == 1 else 0.0,
            frame_association=cfg.TEST.ASSOCIATION,
            bisoftmax=BisoftmaxOptions.from_config(cfg),
            refine_window=cfg.TEST.REFINE_WINDOW,
            quasi_dense=QuasiDenseOptions.from_config(cfg),
            refinevis=RefineVISOptions.from_config(cfg),
        )


@dataclass(frozen=True)
class TrackMask:
    """One track in one frame.

    Args:
        track_id: from 1; the same through the video.
        label: the best class so far.
        score: its probability so far, in [0, 1]; in whole-video mode the final one.
        rle: the mask at the size of the video.
        box_xyxy_px: tight box around the mask (x1, y1, x2, y2), the far edge exclusive.
        area: pixels of the mask, at least 1.
    """

    track_id: int
    label: int
    score: float
    rle: Rle
    box_xyxy_px: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class FrameResult:
    """A frame that no later window changes.

    Args:
        index: in the video, from 0.
        tracks: the tracks with at least one pixel in the frame, by ascending id.
        closed: tracks that no later frame can hold, with their final scores; those that never
            had a pixel, or have no class above ``min_score``, are left out.
        frame: (H, W, 3) uint8 RGB original, if asked for.
        detections: objects in no track, id 0, where the association is asked for them.
    """

    index: int
    tracks: tuple[TrackMask, ...]
    closed: tuple[TrackSummary, ...] = ()
    frame: Frame | None = None

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, see ``vmt.inference.detections``."""
        from vmt.inference.detections import to_supervision

        return to_supervision(self)

    detections: tuple[TrackMask, ...] = ()


class VideoPredictor:
    """Runs a network over videos; streams hold their own state, so they may overlap.

    A network for frames can also be stepped through one live video, whose state is here.

    Args:
        model: put on its device and in evaluation mode by ``load_model``.
        options: see ``PredictorOptions``.

    Raises:
        ConfigError: the network needs masks that are given.
    """

    def __init__(self, model: VideoModel, options: PredictorOptions | None = None) -> None:
        if isinstance(model, MaskRefinerModel) and not isinstance(model, ClipModel):
            raise ConfigError(
                f"{type(model).__name__} sharpens given masks and finds no objects in videos; "
                "vmt.MaskRefiner runs it."
            )
        self.model = cast("Segmenter", model)
        self.options = options if options is not None else PredictorOptions()
        self._live: TrackStream | None = None

    def stream(
        self,
        frames: Iterable[Frame],
        *,
        keep_frames: bool = False,
        mask_size: tuple[int, int] | None = None,
        behind: bool = False,
    ) -> TrackStream:
        """Segment a video frame by frame.

        Args:
            frames: (H, W, 3) uint8 RGB of one size, read lazily and in order.
            keep_frames: give the originals back in ``FrameResult.frame``. In whole-video mode an
                iterable that can be read twice (a ``VideoSource``, a list) is; an iterator's
                frames are held in memory.

            mask_size: (h, w) of the masks in pixels, for frames that were resized before; None:
                that of the frames.
            behind: on a GPU, read and resize the frames of the next window in a thread while one is
                computed, and code the masks of the one before in another, so that every frame comes
                a window later: nothing for a live video.

        Returns:
            An iterator over finished frames, in order.
        """
        depth = behind_frames(self.options, self.model.device) if behind else 0
        return TrackStream(self.model, self.options, frames, keep_frames, mask_size, depth)

    def step(self, frame: Frame) -> FrameResult:
        """Segment the next frame of a live video.

        Args:
            frame: (H, W, 3) uint8 RGB, of the size of the frames before.

        Raises:
            ConfigError: the network or its association sees clips, not frames.
            VideoError: the frame has another size.
        """
        return self._stepped().step(frame)

    def finish(self) -> list[TrackSummary]:
        """End the live video, and give the scores of the tracks that no frame closed."""
        live, self._live = self._stepped(), None
        return live.finish()

    def save_state(self, path: str | Path) -> None:
        """Write everything about the live video; ``load_state`` goes on there, to the bit."""
        state = self._stepped().state()
        with AtomicFile(Path(path)) as file:
            torch.save(state, cast("IO[bytes]", file))

    def load_state(self, path: str | Path) -> None:
        """Go on with the live video of ``save_state``, with the same network and options.

        Raises:
            CheckpointError: the file is none of ``save_state``, or of another association.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._live = None
            self._stepped().load_state(state)
        except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: no state of a live video of {type(self.model).__name__} ({error})."
            ) from None

    def _stepped(self) -> TrackStream:
        if not isinstance(self.model, FrameModel):
            raise ConfigError(
                f"{type(self.model).__name__} sees whole clips; use stream, which reads ahead."
            )
        if self._live is None:
            live = TrackStream(self.model, self.options, (), keep_frames=False)
            if live.clip > 1:
                raise ConfigError(
                    f"{type(self.model).__name__} refines clips of {live.clip} frames, whose first "
                    "knows the last; use stream, or TEST.REFINEVIS.MODE online for a live video."
                )
            self._live = live
        return self._live


def behind_frames(options: PredictorOptions, device: torch.device) -> int:
    """Frames that may wait in front of the network and for their masks to be coded.

    0: none, as on a CPU, which is busy.
    """
    return 0 if device.type == "cpu" else max(options.step, 1)


@dataclass
class _Held:
    """A frame on its way through the windows."""

    small: Tensor  # (3, H, W) uint8 at network size
    original: Frame | None


@dataclass(frozen=True)
class _Linked:
    """A frame whose tracks are known, and their masks, but not coded.

    Args:
        record: its tracks.
        crops: their masks.
        rest_crops: masks of ``record.rest``.
        original: see ``FrameResult.frame``.
        ended: tracks that end behind this frame.
    """

    record: FrameLogits
    crops: Sequence[MaskCrop]
    rest_crops: Sequence[MaskCrop]
    original: Frame | None
    ended: tuple[TrackSummary, ...]


class TrackStream(Iterator[FrameResult]):
    """The finished frames of one video; reads, segments and links as it is asked.

    When the source breaks off, the frames before come first, then its VideoError. A caller that
    stops early gets the scores of the tracks so far from ``finish``, which a network for frames
    needs at the end of a video too: it does not read ahead to know where that is.

    Attributes:
        seconds: time spent so far by stage: read, resize, network, link, masks, rle.

    Args:
        depth: frames that are resized ahead in a thread, and frames whose masks are coded in
            another, see ``map_behind``; 0: without them.
    """

    def __init__(
        self,
        model: Segmenter,
        options: PredictorOptions,
        frames: Iterable[Frame],
        keep_frames: bool,
        mask_size: tuple[int, int] | None = None,
        depth: int = 0,
    ) -> None:
        self.seconds = dict.fromkeys(("read", "resize", "network", "link", "masks", "rle"), 0.0)
        self._model = model
        self._options = options
        self._source = frames
        self._keep = keep_frames
        self._mask_size = mask_size
        self._depth = depth
        self._ended: list[TrackSummary] = []  # behind frames that are not handed out yet
        self._by_frame = isinstance(model, FrameModel)
        whole = options.whole_video and not self._by_frame
        self._rereads = keep_frames and whole and iter(frames) is not frames
        self._association = options.association(model)
        self._next_frame = 0  # of ``step``
        self._video_size: tuple[int, int] | None = None
        self._visible: set[int] = set()  # open tracks with at least one pixel so far
        self._frames: Generator[FrameResult, None, None] = self._run()

    def __next__(self) -> FrameResult:
        with torch.inference_mode():
            return next(self._frames)

    def finish(self) -> list[TrackSummary]:
        """Stop, and give the scores of the tracks that were not closed by a frame."""
        self._frames.close()
        self._report()
        return self._seen([*self._ended, *self._association.pop_closed(everything=True)])

    def _report(self) -> None:
        """Say what the network left undone, once per video."""
        if left_out := self._model.left_undone():
            logger.warning("%s: %s", getattr(self._source, "name", "video"), left_out)

    def _run(self) -> Generator[FrameResult, None, None]:
        options, held = self._options, self._read()
        if self._depth:
            held = iter(ReadAhead(held, self._depth))
        if self._by_frame:
            windows = iter_chunks(held, self.clip or max(options.window, 1))
        else:
            windows = iter_windows(held, options.window, options.step)
        linked = chain.from_iterable(map(self._link, windows))
        with closing(held), closing(map_behind(self._code, linked, self._depth)) as frames:
            for coded in frames:
                yield self._result(coded)
        self._report()

    def _link(self, window: Window[_Held]) -> Iterator[_Linked]:
        """The frames that a window finishes."""
        output = self._segment(window)
        started = time.perf_counter()
        self._association.add(window.start, output)
        records = self._association.pop_frames(window.final_until)
        self.seconds["link"] += time.perf_counter() - started
        originals = iter(self._source) if self._rereads else None
        crops = self._crops(records)
        for record in records:
            started = time.perf_counter()
            own, rest = next(crops), () if record.rest is None else next(self._crops([record.rest]))
            self.seconds["masks"] += time.perf_counter() - started
            ended: tuple[TrackSummary, ...] = ()
            if record is records[-1]:
                ended = tuple(self._association.pop_closed(everything=window.last))
                self._ended += ended
            original = next(originals, None) if originals else None
            if originals is None and self._keep:
                original = window.frames[record.index - window.start].original
            yield _Linked(record, own, rest, original, ended)

    def step(self, frame: Frame) -> FrameResult:
        """See ``VideoPredictor.step``."""
        with torch.inference_mode():
            window = Window(self._next_frame, [self._held(frame)], self._next_frame + 1, last=False)
            self._next_frame += 1
            (linked,) = self._link(window)
            return self._result(self._code(linked))

    @property
    def clip(self) -> int:
        """Frames that the association of a network for frames takes together; 0: any number."""
        return self._resumable.clip

    @property
    def _resumable(self) -> ResumableAssociation[Any]:
        return cast("ResumableAssociation[Any]", self._association)

    def state(self) -> dict[str, Any]:
        """Of a stream that is stepped: tensors, numbers and containers of them."""
        return {
            "association": self._resumable.state(),
            "video_size": self._video_size,
            "visible": sorted(self._visible),
            "next_frame": self._next_frame,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._resumable.load_state(state["association"])
        self._video_size = state["video_size"]
        self._visible = set(state["visible"])
        self._next_frame = state["next_frame"]

    def _read(self) -> Generator[_Held, None, None]:
        source = iter(self._source)
        while True:
            started = time.perf_counter()
            frame = next(source, None)
            self.seconds["read"] += time.perf_counter() - started
            if frame is None:
                return
            yield self._held(frame)

    def _held(self, frame: Frame) -> _Held:
        size = (frame.shape[0], frame.shape[1])
        if self._video_size is None:
            self._video_size = size
        if size != self._video_size:
            raise VideoError(
                f"a frame of {size[1]}x{size[0]} pixels follows frames of "
                f"{self._video_size[1]}x{self._video_size[0]}; one video has one size."
            )
        started = time.perf_counter()
        small = resize_frame(frame, self._options.min_size, self._options.max_size)
        self.seconds["resize"] += time.perf_counter() - started
        held = frame if self._keep and not self._rereads else None
        return _Held(torch.from_numpy(small).permute(2, 0, 1), held)

    def _segment(self, window: Window[_Held]) -> ClipTracklets | list[FrameOutputs]:
        model, started = self._model, time.perf_counter()
        frames = torch.stack([held.small for held in window.frames])  # (T, 3, H, W)
        segment = model.segment_frames if isinstance(model, FrameModel) else model.segment_clip
        try:
            output = segment(to_device(frames, model.device))
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"{len(frames)} frames of {frames.shape[3]}x{frames.shape[2]} pixels do not fit "
                f"into the memory of {model.device}; choose a smaller TEST.WINDOW "
                "(--window), TEST.FRAME_CHUNK or INPUT.MIN_SIZE_TEST."
            ) from None
        self.seconds["network"] += time.perf_counter() - started
        return output

    @property
    def _size(self) -> tuple[int, int]:
        size = self._mask_size or self._video_size
        assert size is not None, "a frame was read before its masks are asked for"
        return size

    def _crops(self, records: Sequence[FrameLogits]) -> Iterator[Sequence[MaskCrop]]:
        return masks_of_frames(records, self._size, crop_to_input=self._options.crop_to_input)

    def _code(self, linked: _Linked) -> tuple[_Linked, FrameResult]:
        """The masks of a frame as runs; may run in a thread."""
        started, record = time.perf_counter(), linked.record
        others: tuple[TrackMask, ...] = ()
        tracks = _track_masks(record, linked.crops, self._size)
        if record.rest is not None:
            others = _track_masks(record.rest, linked.rest_crops, self._size)
        self.seconds["rle"] += time.perf_counter() - started
        return linked, FrameResult(record.index, tracks, (), linked.original, others)

    def _result(self, coded: tuple[_Linked, FrameResult]) -> FrameResult:
        """A frame that is handed out."""
        linked, result = coded
        self._visible.update(track.track_id for track in result.tracks)
        del self._ended[: len(linked.ended)]
        return replace(result, closed=tuple(self._seen(linked.ended)))

    def _seen(self, summaries: Sequence[TrackSummary]) -> list[TrackSummary]:
        """Those of tracks that end that had a class and a pixel."""
        closed = [s for s in summaries if s.classes and s.track_id in self._visible]
        self._visible.difference_update(s.track_id for s in summaries)
        return closed


def _track_masks(
    record: FrameLogits, crops: Sequence[MaskCrop], size: tuple[int, int]
) -> tuple[TrackMask, ...]:
    """The tracks of a frame that have a pixel."""
    tracks = []
    rows = zip(record.track_ids, record.labels, record.scores, crops, strict=True)
    for track_id, label, score, crop in rows:
        if area := crop.area:
            rle = encode_crop(crop, size)
            tracks.append(TrackMask(track_id, label, score, rle, crop.box_xyxy_px(), area))
    return tuple(tracks)


def resize_frame(frame: Frame, min_size: int, max_size: int = 0) -> Frame:
    """Bring a frame to network size as the release does: Pillow's antialiased bilinear filter.

    Args:
        frame: (H, W, 3) uint8.
        min_size: short side of the result in pixels; the long side is cut to an integer.
        max_size: bound of the long side in pixels, which then gives the scale; 0: none.

    Returns:
        (h, w, 3) uint8, writable.

    Raises:
        VideoError: the frame is so narrow that the long side would pass ``MAX_LONG_SIDE``.
    """
    height, width = frame.shape[:2]
    size = network_size(height, width, min_size, max_size)
    if max(size) > MAX_LONG_SIDE:
        raise VideoError(
            f"frames of {width}x{height} pixels become {max(size)} pixels long at a short side "
            f"of {min_size}; bound the long side with INPUT.MAX_SIZE_TEST 1333, or crop the video."
        )
    if size == (height, width):
        return frame.copy()
    resized = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(resized)
