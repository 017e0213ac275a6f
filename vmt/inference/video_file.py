"""Video files as players show them: upright, as long as their edit list says, frame by frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vmt.data.images import TURNED, Frame, check_file, over_black, turn_upright
from vmt.utils.errors import VideoError

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".wmv", ".flv",
    ".ts", ".m2ts", ".mts", ".3gp", ".ogv", ".y4m", ".mjpeg", ".mjpg",
))
# fmt: on
#: Frames per second of sources that do not say.
FOLDER_FPS = 12.0


class VideoFile:
    """A file with a video stream, decoded through PyAV frame by frame.

    Args:
        path: mp4, mov, webm, mkv, avi, gif and what else FFmpeg reads.

    Raises:
        VideoError: no such file, empty, no video in it, or not one frame can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self.video_id = 1
        self.complete_length = False
        self.rereadable = True
        check_file(path)
        with _open_container(path) as container:
            stream = _video_stream(path, container)
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else FOLDER_FPS
            self.num_frames = _listed_frames(container, stream)
            first = next(_decode(path, container, stream), None)
        if first is None:
            raise VideoError(
                f"{path}: not one frame can be decoded; the file is damaged or cut short. "
                "Export or copy it again."
            )
        self.turned = _orientation(first) in TURNED
        self.size: tuple[int, int] = (
            (first.width, first.height) if self.turned else (first.height, first.width)
        )

    def __iter__(self) -> Iterator[Frame]:
        """Decode from the start; what still decodes of a damaged file comes before the error."""
        with _open_container(self.path) as container:
            stream = _video_stream(self.path, container)
            yield from map(_RgbConverter(), _decode(self.path, container, stream))


def count_frames(path: Path) -> int:
    """Number of frames of a video file that iterating over it gives.

    Files whose header lists their frames (MP4, MOV) are not decoded, all others are.

    Raises:
        VideoError: it cannot be opened, is damaged, or is cut off.
    """
    source = VideoFile(path)
    if source.num_frames is not None:
        return source.num_frames
    with _open_container(path) as container:
        return sum(1 for _ in _decode(path, container, _video_stream(path, container)))


def _open_container(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path}: cannot be opened as a video ({one_line(error)}); the file is damaged, cut "
            "short or of another kind. Copy or export it again."
        ) from None


def _video_stream(path: Path, container: Any) -> Any:
    pictures = (s for s in container.streams.video if not _is_cover(s))
    stream = next(pictures, None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams} - {"data"})
        if not kinds:
            raise VideoError(
                f"{path}: holds no readable stream; the file is damaged or cut short. Copy or "
                "export it again."
            )
        raise VideoError(
            f"{path}: holds no video, only {' and '.join(kinds)}; give a file with pictures."
        )
    # Not frame threads: behind a damaged packet they drop frames that do decode.
    stream.thread_type = "SLICE"
    return stream


def _is_cover(stream: Any) -> bool:
    """True for the cover picture of a music file, which FFmpeg lists as a video stream."""
    disposition = getattr(stream, "disposition", None)
    attached = getattr(type(disposition), "attached_pic", None)
    return attached is not None and bool(disposition & attached)


def _listed_frames(container: Any, stream: Any) -> int | None:
    """Frames that the table of an MP4 or MOV lists and its edit list shows, else None.

    Other headers count what their writer meant to write, or dropped frames too.
    """
    if "mp4" not in container.format.name or not stream.frames:
        return None
    entries = stream.index_entries
    return sum(entry.size > 0 and not entry.is_discard for entry in entries) or None


def _decode(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames of a stream; damage is reported behind the last frame that decodes.

    A file that ends early gives fewer packets than its table of contents lists, or a last packet
    that does not decode.
    """
    packets = frames = damaged = 0
    cause = ""
    demuxer = container.demux(stream)
    while True:
        try:
            packet = next(demuxer)
        except StopIteration:
            break
        except av.FFmpegError as error:
            damaged, cause = damaged + 1, one_line(error)
            break
        packets += packet.size > 0 and not packet.is_discard
        if packet.is_corrupt:
            damaged, cause = damaged + 1, "the last packet is cut off"
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            damaged, cause = damaged + 1, one_line(error)
            continue
        for frame in decoded:
            frames += 1
            yield frame
    listed = _listed_frames(container, stream) or 0
    missing = listed - packets
    if damaged or missing > 0:
        expected = f" of {listed}" if listed else ""
        cause = cause or f"{missing} are missing at the end"
        raise VideoError(
            f"{path}: only {frames}{expected} frames could be decoded ({cause}); the file is "
            "damaged or cut short. Copy or export it again for the rest."
        )


class _RgbConverter:
    """Decoded frames to upright RGB; keeps the scaler between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> Frame:
        alpha = any(component.is_alpha for component in frame.format.components)
        target = "rgba" if alpha or frame.format.name == "pal8" else "rgb24"
        # One thread: a second one costs more than it gains at the sizes of these frames.
        converted = self._reformatter.reformat(frame, format=target, threads=1)
        rgb = np.asarray(converted.to_ndarray(), dtype=np.uint8)
        upright = turn_upright(rgb, _orientation(frame))
        return over_black(upright) if target == "rgba" else upright


def _orientation(frame: Any) -> int:
    """The display matrix of a frame as an orientation of EXIF, 1 to 8, to the next right angle."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1
    # A stored pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[
            (a < 0, d < 0)
        ]
    return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[(b < 0, c < 0)]


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks and full stop."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text.rstrip(".") or type(error).__name__
