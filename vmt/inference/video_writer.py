"""Pictures out: H.264 mp4 and PNG, each whole or not at all, and JPEG in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vmt.data.images import Frame
from vmt.inference.video_file import one_line
from vmt.utils.atomic import AtomicFile
from vmt.utils.errors import OutputError


def write_png(path: Path, pixels: npt.NDArray[Any], palette: Sequence[int] | None = None) -> None:
    """Write a PNG whole or not at all.

    Args:
        path: of the file.
        pixels: (H, W, 3) uint8 RGB, (H, W, 4) uint8 RGBA, (H, W) uint8, or (H, W) uint16.
        palette: 768 numbers in [0, 255]: stores (H, W) uint8 as indices into these RGB triples.

    Raises:
        OutputError: the file cannot be written, e.g. the disk is full.
    """
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(list(palette))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    with AtomicFile(path, durable=False) as file:
        file.write(buffer.getvalue())


def encode_jpeg(picture: Frame, quality: int = 86) -> bytes:
    """A picture (H, W, 3) uint8 RGB as a JPEG file; quality from 1 to 100 (best)."""
    pixels = np.ascontiguousarray(picture[:, :, ::-1])
    ok, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, "a picture in memory can be coded"
    return bytes(coded)


class VideoWriter:
    """Frames into an H.264 mp4 that plays in browsers: yuv420p, table of contents in front.

    The file has a temporary name until ``close``, which finishes it; a run that is interrupted
    closes it likewise, so that what was written plays.

    Args:
        path: of the finished file.
        fps: frames per second, > 0.
        size: (h, w) of the frames; odd sides are padded to even ones by repeating the edge.
        quality: constant rate factor of x264, 0 (best) to 51.
        on_full: called when the disk is full, before the last attempt; returns True if it made
            room (see ``results.DiskReserve``).

    Raises:
        OutputError: the file cannot be created, or this FFmpeg has no H.264 encoder.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        size: tuple[int, int],
        *,
        quality: int = 20,
        on_full: Callable[[], bool] | None = None,
    ) -> None:
        self.path = path
        self.frames = 0
        self._size = size
        self._file = AtomicFile(path, on_full=on_full)
        try:
            self._container: Any = av.open(
                self._file,
                "w",
                format="mp4",
                options={"movflags": "+faststart"},
                io_open=lambda url, flags, options: self._file.reopen(),
                buffer_size=1 << 18,
            )
            self._stream: Any = self._add_stream(fps, quality)
        except BaseException:
            self._file.discard()
            raise

    def _add_stream(self, fps: float, quality: int) -> Any:
        rate = Fraction(min(max(fps, 0.1), 1000.0)).limit_denominator(60000)
        for codec in ("libx264", "libopenh264", "h264"):
            try:
                stream = self._container.add_stream(codec, rate=rate)
            except (av.FFmpegError, ValueError):
                continue
            stream.height, stream.width = (side + side % 2 for side in self._size)
            stream.pix_fmt = "yuv420p"
            if codec == "libx264":
                stream.options = {"crf": str(quality), "preset": "veryfast"}
            return stream
        raise OutputError(
            f"{self.path}: this build of FFmpeg has no H.264 encoder; reinstall PyAV (`pip install "
            "--force-reinstall av`)."
        )

    def write(self, frame: Frame) -> None:
        """Append one frame (H, W, 3) uint8 RGB of the size given at the start.

        Raises:
            OutputError: the disk is full or the file is gone.
            ValueError: the frame has another size.
        """
        if frame.shape[:2] != self._size:
            raise ValueError(f"frame of {frame.shape[:2]} in a video of {self._size}.")
        odd_rows, odd_columns = self._size[0] % 2, self._size[1] % 2
        if odd_rows or odd_columns:
            frame = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        self._guarded(lambda: self._encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; without frames there is no file.

        Raises:
            OutputError: it cannot be finished.
        """
        if self._file.closed:
            return
        if not self.frames:
            self._file.discard()
            return
        try:
            self._guarded(self._finish)
        except BaseException:
            self._file.discard()
            raise
        self._file.commit()

    def _finish(self) -> None:
        self._encode(None)
        self._container.close()

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (av.FFmpegError, OSError) as error:
            raise OutputError(
                f"{self.path}: cannot be written ({one_line(error)}); free some space on the disk "
                "or choose another --output."
            ) from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
