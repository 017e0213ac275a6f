"""The video of a visitor: read to its end once, with a picture of every frame to look at."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmt.data.images import Frame, read_picture
from vmt.inference.video_file import VIDEO_SUFFIXES, VideoFile
from vmt.inference.video_writer import encode_jpeg
from vmt.utils.atomic import make_folder, output_error
from vmt.utils.errors import VideoError

#: Quality of the pictures that the page shows, 1 to 100; networks read the video itself.
QUALITY = 92


@dataclass(frozen=True)
class Limits:
    """What a visitor may bring.

    Args:
        megabytes: largest file, in MB (10^6 bytes).
        frames: longest video.
    """

    megabytes: int = 200
    frames: int = 3000


@dataclass(frozen=True)
class Clip:
    """A video that was read to its end once.

    Args:
        source: the video.
        folder: of a JPEG file per frame, and of the copy of an upload.
        num_frames: how many there are.
    """

    source: VideoFile
    folder: Path
    num_frames: int

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return self.source.size

    def picture(self, frame: int) -> Frame:
        """A frame to look at, (H, W, 3) uint8 RGB."""
        return read_picture(self.folder / f"{frame:05d}.jpg")

    def remove(self) -> None:
        """Delete its folder; a video outside of it stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_clip(
    path: Path,
    folder: Path,
    limits: Limits,
    step: Callable[[int, int, str], bool],
    *,
    own: bool = True,
) -> Clip | None:
    """Read a video to its end.

    Args:
        path: of the file.
        folder: where a copy and the pictures go.
        limits: of its size and length.
        step: called with frames done, expected (0: unknown) and a word; True ends the reading.
        own: copy the file, which others may remove.

    Returns:
        The video; None when the reading was ended.

    Raises:
        VideoError: too large, too long, of no known kind, damaged or cut short.
        OutputError: the disk is full.
    """
    suffix = path.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        known = " ".join(sorted(VIDEO_SUFFIXES))
        raise VideoError(f"This is no video file; choose one of {known}.")
    if (size := path.stat().st_size) > limits.megabytes * 10**6:
        raise VideoError(
            f"This video has {size / 1e6:.0f} MB, more than the {limits.megabytes} that this page "
            "takes; cut it or make it smaller."
        )
    own_folder = make_folder(folder / secrets.token_hex(4))
    taken = own_folder / f"video{suffix}" if own else path
    clip = None
    try:
        if own:
            _copy(path, taken)
        source = VideoFile(taken)
        source.check_whole()
        num_frames = _write_pictures(source, own_folder, limits, step)
        if num_frames is not None:
            clip = Clip(source, own_folder, num_frames)
        return clip
    except VideoError as error:
        raise VideoError(str(error).replace(str(taken), "This video")) from None
    finally:
        if clip is None:
            shutil.rmtree(own_folder, ignore_errors=True)


def _copy(path: Path, target: Path) -> None:
    """A second name for the file, or a copy of it where that cannot be."""
    try:
        os.link(path, target)
    except OSError:
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise output_error(target, error) from None


def _write_pictures(
    source: VideoFile, folder: Path, limits: Limits, step: Callable[[int, int, str], bool]
) -> int | None:
    """A JPEG of every frame; their number, None when the reading was ended."""
    done = 0
    for done, frame in enumerate(source, start=1):
        if done > limits.frames:
            raise VideoError(
                f"This video has more than the {limits.frames} frames that this page takes; cut it "
                "into pieces."
            )
        path = folder / f"{done - 1:05d}.jpg"
        try:
            path.write_bytes(encode_jpeg(frame, QUALITY))
        except OSError as error:
            raise output_error(path, error) from None
        if step(done, source.num_frames or 0, "reading the video"):
            return None
    return done
