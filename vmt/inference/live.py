"""Videos that are still happening: cameras, streams of the network, pipes, files that grow.

Their frames come once, each as soon as it is there. What breaks off ends in a VideoError behind
the frames that came.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vmt.data.images import Frame
from vmt.inference.threads import ReadAhead, StalledError
from vmt.inference.video_file import FOLDER_FPS, RgbConverter, one_line, video_stream
from vmt.utils.errors import ConfigError, VideoError

logger = logging.getLogger(__name__)

#: Name of the standard input.
STDIN = "-"
#: Seconds between two looks at a file that may grow, or a pipe that is silent.
_LOOK = 0.05
#: The first picture shall not wait until FFmpeg knows all about a stream.
_OPTIONS = {"probesize": "500000", "analyzeduration": "1000000"}
_FORMS = "in a form that can be read while it is written (.ts, .mkv, .y4m; not .mp4)"


@dataclass(frozen=True)
class LiveOptions:
    """How long to wait for what.

    Args:
        follow: files are still written: they end when they have not grown for ``patience``.
        patience: seconds without a frame after which a live video is given up; 0: never.

    Raises:
        ConfigError: a negative time, or a file that would never end.
    """

    follow: bool = False
    patience: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.patience < float("inf"):
            raise ConfigError(f"--patience {self.patience:g}: give seconds from 0 on.")
        if self.follow and not self.patience:
            raise ConfigError("--follow: the file would never end; give --patience above 0.")


class Live(ABC):
    """A video whose frames a thread reads as they come, once; see ``VideoSource``.

    Args:
        name: for file names and messages.
        patience: seconds without a frame after which it is given up; 0: never.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.name = name
        self.fps = FOLDER_FPS
        self.size: tuple[int, int] = (0, 0)
        self.num_frames: int | None = None
        self.video_id = 1
        self.complete_length = False
        self.rereadable = False
        self._patience = patience
        self._closed = threading.Event()
        self._ahead: Generator[Frame, None, None] = iter(
            ReadAhead(self._read(), 1, patience or None, self._closed)
        )
        self._count = 0

    @abstractmethod
    def _read(self) -> Iterator[Frame]:
        """Frames, in the thread, until ``_closed`` is set; ``fps`` is set before the first."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come; VideoError where they stop coming or change their size."""
        try:
            while (frame := self._next()) is not None:
                yield frame
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._ahead.close()

    def _next(self) -> Frame | None:
        """The next frame; None at the end."""
        try:
            frame = next(self._ahead, None)
        except StalledError:
            raise self._broken(
                f"no frame came for {self._patience:g} s",
                "check what sends them, or wait longer with --patience",
            ) from None
        if frame is None:
            return None
        size = (int(frame.shape[0]), int(frame.shape[1]))
        if self.size not in ((0, 0), size):
            raise self._broken(
                f"frames change from {self.size[1]}x{self.size[0]} to {size[1]}x{size[0]} pixels",
                "start again for those that follow",
            )
        self.size = size
        self._count += 1
        return frame

    def _broken(self, what: str, way_out: str) -> VideoError:
        self._closed.set()
        return VideoError(
            f"{self.name}: {what} after {self._count} frames, which are done; {way_out}."
        )


class Camera(Live):
    """A webcam: frames until the caller stops. Its first picture tells the size alone.

    Args:
        index: number of the device, from 0.
        options: see ``LiveOptions``.

    Raises:
        VideoError: the device cannot be opened or gives no picture.
    """

    def __init__(self, index: int, options: LiveOptions | None = None) -> None:
        super().__init__(f"camera{index}", (options or LiveOptions()).patience)
        self._index = index
        if self._next() is None:
            raise VideoError(
                f"camera {index}: gives no picture; check that it is plugged in, free and allowed, "
                "or give another number or a file."
            )
        self._count = 0

    def _next(self) -> Frame | None:
        frame = super()._next()
        if frame is None and self.size != (0, 0):
            raise self._broken("the device sends no more", "check that it is plugged in and free")
        return frame

    def _read(self) -> Iterator[Frame]:
        import cv2

        capture = cv2.VideoCapture(self._index)
        try:
            if not capture.isOpened():
                return
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            self.fps = rate if 1.0 <= rate <= 240.0 else 30.0
            while not self._closed.is_set():
                there, picture = capture.read()
                if not there:
                    return
                yield np.ascontiguousarray(picture[:, :, ::-1])
        finally:
            capture.release()


class Stream(Live):
    """A video that arrives as bytes: over the network, through a pipe, or in a file.

    Args:
        source: a URL that FFmpeg reads, a named pipe, a file that is still written, or "-" for the
            standard input.
        options: see ``LiveOptions``.

    Raises:
        VideoError: it cannot be opened, holds no video, or no frame comes.
    """

    def __init__(self, source: str, options: LiveOptions | None = None) -> None:
        options = options or LiveOptions()
        name = "stdin" if source == STDIN else Path(source.split("?")[0]).stem or "stream"
        super().__init__(name, 0.0 if options.follow else options.patience)
        self._source = source
        self._quiet = options.patience if options.follow else None
        self._first = self._next()
        if self._first is None:
            raise VideoError(f"{source}: not one frame came; give a video {_FORMS}.")

    def __iter__(self) -> Iterator[Frame]:
        """See ``Live``."""
        first, self._first = self._first, None
        if first is not None:
            yield first
        yield from super().__iter__()

    def _read(self) -> Iterator[Frame]:
        bytes_in = (
            None if "://" in self._source else _Arriving(self._source, self._closed, self._quiet)
        )
        try:
            with self._open(bytes_in or self._source) as container:
                if not container.streams.video:
                    raise VideoError(f"{self._source}: holds no video; give one with pictures.")
                stream = video_stream(Path(self._source), container)
                rate = stream.average_rate or stream.guessed_rate
                self.fps = float(rate) if rate else FOLDER_FPS
                yield from map(RgbConverter(), self._pictures(container, stream))
        finally:
            if bytes_in is not None:
                bytes_in.close()

    def _open(self, source: Any) -> Any:
        # FFmpeg's own patience is longer, so that the thread ends and the sentence is ours.
        timeout = self._patience + 1 if self._patience and source is self._source else None
        try:
            return av.open(
                source, options=dict(_OPTIONS), metadata_errors="replace", timeout=timeout
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{self._source}: cannot be opened as a live video ({one_line(error)}); check that "
                f"it is there, and {_FORMS}."
            ) from None

    def _pictures(self, container: Any, stream: Any) -> Iterator[Any]:
        """What decodes; the rest is left out, as on joining a broadcast."""
        packets, damaged = container.demux(stream), False
        while not self._closed.is_set():
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise self._broken(
                    f"breaks off ({one_line(error)})", "check what sends it"
                ) from None
            if packet is None:
                return
            try:
                pictures = packet.decode()
            except av.FFmpegError as error:
                if not damaged:
                    logger.warning("%s: some of it is damaged (%s).", self.name, one_line(error))
                damaged = True
                continue
            yield from pictures


class _Arriving:
    """A pipe, or a file that grows, for FFmpeg: reading waits for bytes.

    Args:
        path: of it, or "-" for the standard input.
        closed: once set, there are no more bytes.
        quiet: seconds without growth after which a file has ended; None: a pipe, which its writer
            ends.
    """

    def __init__(self, path: str, closed: threading.Event, quiet: float | None) -> None:
        self.name = path
        self._closed = closed
        self._quiet = quiet
        self._ended = False
        self._file = 0 if path == STDIN else -1  # opened by the first read: a pipe may block

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, at least one unless there are no more."""
        if self._file < 0:
            self._file = os.open(self.name, os.O_RDONLY)
        started = time.monotonic()
        while not (self._ended or self._closed.is_set()):
            if self._quiet is None and not select.select([self._file], [], [], _LOOK)[0]:
                continue
            if data := os.read(self._file, count):
                return data
            if self._quiet is None:
                self._ended = True
            elif time.monotonic() - started > self._quiet:
                logger.info("%s: has not grown for %g s: the end.", self.name, self._quiet)
                self._ended = True
            else:
                self._closed.wait(_LOOK)
        return b""

    def close(self) -> None:
        """Close what was opened here."""
        if self._file > 0:
            os.close(self._file)
