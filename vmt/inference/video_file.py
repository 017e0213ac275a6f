"""Video files as players show them: upright, as long as their edit list says, frame by frame."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vmt.data.images import TURNED, Frame, check_file, over_black, turn_upright
from vmt.inference.cut_off import ends_within_frame, explain_unreadable, is_video, missing_end
from vmt.utils.errors import VideoError

logger = logging.getLogger(__name__)

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".wmv", ".flv",
    ".ts", ".m2ts", ".mts", ".3gp", ".ogv", ".y4m", ".mjpeg", ".mjpg",
))
# fmt: on
#: Frames per second of sources that do not say.
FOLDER_FPS = 12.0
#: FFmpeg's names of containers that do not say where they end.
_ENDLESS = frozenset(("mpegts", "mpeg", "mpegvideo", "asf"))
_WAY_OUT = (
    "copy or export it again, or make a whole file of what is there (ffmpeg -i {} -c:v libx264 "
    "whole.mp4)."
)


class VideoFile:
    """A file with a video stream, decoded through PyAV frame by frame.

    Args:
        path: mp4, mov, webm, mkv, avi, gif and what else FFmpeg reads.

    Raises:
        VideoError: no such file, empty, no video in it, or not one frame can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path
        self.name = path.stem
        self.video_id = 1
        self.complete_length = False
        self.rereadable = True
        check_file(path)
        with _open_container(path) as container:
            stream = video_stream(path, container)
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else FOLDER_FPS
            self.num_frames = _listed_frames(container, stream)
            self._missing = _missing_end(path, container, stream)
            first = next(_decode(path, container, stream), None)
            if first is None:
                raise VideoError(
                    f"{path}: not one frame can be decoded; the file is damaged. Export or copy it "
                    "again."
                )
            _warn_of_doubts(path, container, stream, first)
        self.turned = _orientation(first) in TURNED
        self.size: tuple[int, int] = (
            (first.width, first.height) if self.turned else (first.height, first.width)
        )

    def check_whole(self) -> None:
        """Raise, before any frame is decoded, where the structure of the file tells that it is cut.

        Raises:
            VideoError: it is cut short.
        """
        if self._missing:
            raise VideoError(
                f"{self.path}: is cut short ({self._missing}); {_WAY_OUT.format(self.path.name)}"
            )

    def __iter__(self) -> Iterator[Frame]:
        """Decode from the start; what still decodes of a damaged file comes before the error."""
        with _open_container(self.path) as container:
            stream = video_stream(self.path, container)
            to_rgb = RgbConverter()
            for frame in map(to_rgb, _decode(self.path, container, stream)):
                if frame.shape[:2] != self.size:
                    raise VideoError(
                        f"{self.path}: changes its size from {self.size[1]}x{self.size[0]} to "
                        f"{frame.shape[1]}x{frame.shape[0]} pixels on the way; make all frames one "
                        f"size (ffmpeg -i {self.path.name} -s {self.size[1]}x{self.size[0]} "
                        "out.mp4)."
                    )
                yield frame


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
        return sum(1 for _ in _decode(path, container, video_stream(path, container)))


def _open_container(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise VideoError(f"{path}: cannot be read; change its rights.") from None
        raise VideoError(
            f"{path}: cannot be opened as a video: {explain_unreadable(path)}."
        ) from None


def video_stream(path: Path, container: Any) -> Any:
    """The stream of a container that players show.

    Args:
        path: for messages.
        container: of PyAV.

    Raises:
        VideoError: there is none.
    """
    pictures = [s for s in container.streams.video if not _is_cover(s)]
    best = container.streams.best("video") if len(pictures) > 1 else None
    stream = best if best in pictures else next(iter(pictures), None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams} - {"data"})
        if not kinds:
            raise VideoError(f"{path}: holds no readable stream: {explain_unreadable(path)}.")
        raise VideoError(
            f"{path}: holds no video, only {' and '.join(kinds)}; give a file with pictures."
        )
    if stream.codec_context is None:
        raise VideoError(
            f"{path}: its video is coded in a way that this FFmpeg cannot decode; convert it to "
            "H.264 with the program that made it."
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
    """Frames that the header counts exactly, else None.

    Of MP4 and MOV those of the table that the edit list shows; of GIF, which is read through. Other
    headers count what their writer meant to write, or dropped frames too.
    """
    if container.format.name == "gif":
        return int(stream.frames) or None
    if "mp4" not in container.format.name or not stream.frames:
        return None
    return sum(e.size > 0 and not e.is_discard for e in stream.index_entries) or None


def _warn_of_doubts(path: Path, container: Any, stream: Any, frame: Any) -> None:
    """Say what players would show otherwise."""
    pictures = [s.index for s in container.streams.video if not _is_cover(s)]
    if len(pictures) > 1:
        logger.warning(
            "%s: holds %d video streams; number %d is read, as players do.",
            path,
            len(pictures),
            stream.index,
        )
    if getattr(frame, "color_trc", 0) in (16, 18):  # SMPTE 2084 (PQ), ARIB STD-B67 (HLG)
        logger.warning(
            "%s: is HDR; its colours are read without tone mapping and look pale. Convert it to "
            "SDR for colours as in training.",
            path,
        )


def _missing_end(path: Path, container: Any, stream: Any) -> str:
    """What the file lacks at its end, by its table or structure; empty where nothing."""
    if "mp4" in container.format.name and stream.frames:
        size = path.stat().st_size
        beyond = sum(e.pos + e.size > size for e in stream.index_entries if not e.is_discard)
        return _missing(beyond) if beyond else ""
    return missing_end(path, container.format.name) or ""


def _missing(count: int) -> str:
    return f"{count} {'frames are' if count > 1 else 'frame is'} missing at the end"


@dataclass
class _Tally:
    """What came out of a stream so far; packets and frames count from 1."""

    packets: int = 0
    frames: int = 0
    failed: list[int] = field(default_factory=list)  # packets that do not decode
    decoded: int = 0  # the last packet that gave a frame
    concealed: list[int] = field(default_factory=list)  # frames whose damage the decoder hid
    end: int = 0  # byte behind the last packet
    cause: str = ""

    def fail(self, cause: str) -> None:
        self.failed.append(self.packets)
        self.cause = cause


def _decode(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames of a stream; damage is reported behind the last frame that decodes."""
    tally = _Tally()
    demuxer = container.demux(stream)
    while True:
        try:
            packet = next(demuxer)
        except StopIteration:
            break
        except av.FFmpegError as error:
            tally.fail(one_line(error))
            break
        tally.packets += packet.size > 0 and not packet.is_discard
        tally.end = max(tally.end, (packet.pos or 0) + packet.size)
        if packet.is_corrupt:
            tally.fail("the last packet is cut off")
            if "mp4" in container.format.name:
                continue  # else some decoders make half a frame of it
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            tally.fail(one_line(error))
            continue
        for frame in decoded:
            tally.frames += 1
            tally.decoded = tally.packets
            if frame.is_corrupt:
                tally.concealed.append(tally.frames)
            yield frame
    _judge(path, container, stream, tally)


def _judge(path: Path, container: Any, stream: Any, tally: _Tally) -> None:
    """Raise when frames are missing; warn of those that are damaged."""
    kind = container.format.name
    listed = _listed_frames(container, stream) or 0
    cause = _missing_end(path, container, stream)
    if not cause and listed > tally.packets:
        cause = _missing(listed - tally.packets)
    if not cause and "yuv4mpeg" in kind and path.stat().st_size > tally.end:
        cause = "the last one is cut off"
    # Reordered frames leave the decoder late, so the last packet is not always the last frame.
    late = tally.frames - 1 - int(stream.codec_context.has_b_frames)
    if not cause and kind in _ENDLESS and tally.concealed and tally.concealed[-1] > late:
        cause = "the last one is incomplete"
    damaged = bool(tally.failed) and tally.decoded > tally.failed[-1]
    cause = cause or tally.cause
    if cause and not tally.frames and not is_video(path):
        raise VideoError(f"{path}: is no video: {explain_unreadable(path)}.")
    if cause:
        expected = f" of {listed}" if listed and kind != "gif" else ""
        state = "damaged" if damaged else "cut short"
        raise VideoError(
            f"{path}: only {tally.frames}{expected} frames could be decoded ({cause}); the file is "
            f"{state}: {_WAY_OUT.format(path.name)}"
        )
    if tally.frames < listed:
        logger.warning(
            "%s: lists %d frames, of which %d can be decoded; the others may lack their key frame, "
            "or be half frames.",
            path,
            listed,
            tally.frames,
        )
    if kind == "mpegts" and ends_within_frame(path, stream.id):
        logger.warning(
            "%s: ends within a frame; it may be cut off. %d frames were decoded.",
            path,
            tally.frames,
        )
    if tally.concealed:
        logger.warning(
            "%s: %d of %d frames are damaged (first: number %d, from 0), but were decoded.",
            path,
            len(tally.concealed),
            tally.frames,
            tally.concealed[0] - 1,
        )


class RgbConverter:
    """Decoded frames to upright RGB; keeps the scaler between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> Frame:
        """A frame of PyAV -> (H, W, 3) uint8."""
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
