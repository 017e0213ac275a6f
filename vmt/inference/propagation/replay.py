"""The frames of a video forwards, and then its beginning once more, backwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from vmt.inference.sources import FrameList
from vmt.utils.errors import OutputError

ByteArray = npt.NDArray[np.uint8]

#: JPEG quality of frames that wait on disk, without chroma subsampling.
QUALITY = 95


class Replay:
    """A video that is read forwards once, and then backwards.

    What cannot be read backwards (a video file, a generator) waits in a temporary file, frame by
    frame as JPEG: about 0.2 MB for a frame of 854x480.

    Args:
        frames: (H, W, 3) uint8 RGB each.
        again: how many of the first frames are wanted backwards.
    """

    def __init__(self, frames: Iterable[ByteArray], again: int) -> None:
        self._frames = frames
        self._again = again
        self._ends: list[int] = []
        self._file = None
        if again and not isinstance(frames, FrameList | Sequence | np.ndarray):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)

    def forwards(self) -> Iterator[tuple[int, ByteArray]]:
        """Index and frame, once.

        Raises:
            OutputError: the temporary file cannot be written.
            VideoError: of the source.
        """
        for t, frame in enumerate(self._frames):
            if self._file is not None and t < self._again:
                self._keep(frame)
            yield t, frame

    def backwards(self) -> Iterator[tuple[int, ByteArray]]:
        """Index and frame, from the last that is wanted again to the first; after ``forwards``.

        Raises:
            VideoError: of the source.
        """
        frames = self._frames
        if isinstance(frames, FrameList):
            paths = frames.paths[: self._again]
            if paths:
                again = FrameList(frames.name, paths[::-1])
                yield from zip(reversed(range(len(paths))), again, strict=True)
        elif self._file is None:
            for t in reversed(range(self._again)):
                yield t, frames[t]  # type: ignore[index]
        else:
            for t in reversed(range(len(self._ends))):
                yield t, self._read(t)

    def close(self) -> None:
        """Delete the temporary file."""
        if self._file is not None:
            self._file.close()

    def _keep(self, frame: ByteArray) -> None:
        assert self._file is not None, "frames are kept in the file"
        how = (cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR)
        whole = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        ok, coded = cv2.imencode(".jpg", np.ascontiguousarray(frame[:, :, ::-1]), (*how, whole))
        assert ok, "a picture in memory can be coded"
        try:
            self._file.write(coded.tobytes())
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: frames that are wanted backwards cannot be written "
                f"({error.strerror}); make room, or set TMPDIR to another place."
            ) from None
        self._ends.append(self._file.tell())

    def _read(self, t: int) -> ByteArray:
        assert self._file is not None, "frames are kept in the file"
        start = self._ends[t - 1] if t else 0
        self._file.seek(start)
        coded = np.frombuffer(self._file.read(self._ends[t] - start), np.uint8)
        frame = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert frame is not None, "what was coded can be decoded"
        return np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
