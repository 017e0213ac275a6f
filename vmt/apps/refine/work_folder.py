"""What became of the videos of a run, on disk: ``OUT.part/<video>.jsonl``.

A file has a header, then one line per frame. A run that was cut short goes on behind the videos
that are done; at the end the output is put together from them and gets its name.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.io import rle
from vmt.apps.refine.frames import VideoFrames
from vmt.data.mask_files.base import Change, FrameSet, MaskFile, MaskVideo, VideoMasks
from vmt.utils.atomic import AtomicFile, make_folder, output_error
from vmt.utils.errors import OutputError


class WorkFolder:
    """Finished videos of a run.

    Args:
        output: file or folder that the run makes.
        stamp: of its options; a finished video of another one is done again.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, output: Path, stamp: str) -> None:
        self.path = make_folder(output.with_name(output.name + ".part"))
        self._output = output
        self._options = stamp
        self._stamps: dict[str, str] = {}

    def expect(self, video: MaskVideo, frames: VideoFrames) -> None:
        """Say which frames a video has; without them it is never finished."""
        self._stamps[video.key] = f"{video.stamp()} {frames.stamp} {self._options}"

    def finished(self, key: str) -> FinishedVideo | None:
        """A video that is done, unless its masks, frames or the options have changed since."""
        if key not in self._stamps:
            return None
        try:
            with self._file(key).open(encoding="utf-8") as file:
                header: dict[str, Any] = json.loads(file.readline())
            height, width = header["size"]
            keys, labels = (
                zip(*header["tracklets"], strict=True) if header["tracklets"] else ((), ())
            )
            video = FinishedVideo(self._file(key), header["note"], (height, width), keys, labels)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or damaged
        return video if header.get("run") == self._stamps[key] else None

    def begin(self, video: MaskVideo, masks: VideoMasks, frames: FrameSet) -> AtomicFile:
        """File for the changes of a video; it counts as finished when it is committed."""
        file = AtomicFile(self._file(video.key), durable=False)
        header = {
            "run": self._stamps[video.key],
            "label": video.label,
            "note": masks.note,
            "size": list(frames.size),
            "tracklets": [[t.key, t.label] for t in masks.tracklets],
        }
        file.write(spell(header))
        return file

    def _file(self, key: str) -> Path:
        safe = re.sub(r"[^\w.-]", "_", key)[:120]
        # Two names may become one; a checksum keeps them apart.
        checksum = zlib.crc32(key.encode())
        return self.path / (f"{safe}.jsonl" if safe == key else f"{safe}_{checksum:08x}.jsonl")

    def write_output(self, masks: MaskFile) -> None:
        """Put the output together; it appears whole or not at all.

        Raises:
            OutputError: it cannot be written; finished videos stay in the work folder.
        """
        result = self.path / "result"
        try:
            if result.is_dir():
                shutil.rmtree(result)
            for relative, pieces in masks.rewrite(lambda key: self.finished(key) or ()):
                target = result / relative if relative else result
                make_folder(target.parent)
                with AtomicFile(target, durable=not relative) as file:
                    for piece in pieces:
                        file.write(piece)
            if self._output.is_dir():
                self._output.rmdir()
            result.replace(self._output)
        except OutputError:
            raise
        except OSError as error:
            raise output_error(self._output, error) from None

    def remove(self) -> None:
        """Delete it, when the run is complete."""
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class FinishedVideo:
    """What became of a video; changes are read from disk frame by frame.

    Args:
        path: of its work file.
        note: see ``VideoMasks``.
        size: (h, w) in pixels.
        keys: of its N tracklets.
        labels: of its N tracklets.
    """

    path: Path
    note: str
    size: tuple[int, int]
    keys: tuple[str, ...]
    labels: tuple[str, ...]

    def __iter__(self) -> Iterator[Change]:
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                t, name, rows = json.loads(line)
                for n, area, changed, confidence, rejected, counts in rows:
                    mask = rle.Rle(size=list(self.size), counts=counts) if counts else None
                    key = self.keys[n]
                    yield Change(t, name, n, key, area, changed, confidence, bool(rejected), mask)


def spell(record: Any) -> bytes:
    """A line of a work file."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def check_output(masks: MaskFile, output: Path) -> None:
    """Refuse outputs that would lose something, before any work is done.

    Raises:
        OutputError: it is the input, or something else stands there.
    """
    if output.resolve() == masks.path.resolve():
        raise OutputError(f"{output}: would overwrite the input; give another name.")
    if masks.path.is_dir() and output.exists() and (output.is_file() or any(output.iterdir())):
        raise OutputError(f"{output}: exists and is not empty; delete it or give another name.")
    if not masks.path.is_dir() and output.is_dir():
        raise OutputError(f"{output}: is a folder, but {masks.form} are one file; name a file.")
    make_folder(output.parent)
