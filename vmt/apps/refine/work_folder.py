"""What became of the videos of a run, on disk: ``OUT.part/<video>.jsonl``.

A file has a header, then one line per frame. A run that was cut short goes on behind the videos
that are done; at the end the output is put together from them and gets its name.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from cocoapi_hq.io import rle
from vmt.apps.refine.frames import find_frames
from vmt.apps.refine.options import RefineOptions
from vmt.data.images import Frame
from vmt.data.mask_files.base import Change, FrameSet, MaskFile, MaskVideo, VideoMasks
from vmt.inference.sources import VideoSource
from vmt.utils.atomic import AtomicFile, make_folder, output_error
from vmt.utils.errors import OutputError, VideoError


class WorkFolder:
    """The videos of a run, and what became of those that are done.

    Args:
        masks: the file; the frames of all its videos are looked for, none is read.
        options: of the run; a video that was finished under others is done again.

    Attributes:
        frames: key of a video -> opens its frames.
        problems: videos that have none.

    Raises:
        VideoError: no video has frames.
        OutputError: the folder cannot be made.
    """

    def __init__(self, masks: MaskFile, options: RefineOptions) -> None:
        self.frames: dict[str, Callable[[], VideoSource]] = {}
        self.problems: list[tuple[MaskVideo, VideoError]] = []
        self._masks = masks
        self._output = options.output
        self._confidence = options.confidence
        self._stamps: dict[str, str] = {}
        for video in masks.videos:
            try:
                frames = find_frames(masks, video, options.images, options.video)
            except VideoError as error:
                self.problems.append((video, error))
                continue
            self.frames[video.key] = frames.open
            self._stamps[video.key] = f"{video.stamp()} {frames.stamp} {options.stamp()}"
        if not self.frames:
            raise self.problems[0][1]
        self.path = make_folder(work_path(options))

    def finished(self, key: str) -> FinishedVideo | None:
        """A video that is done, unless its masks, frames or the options have changed since."""
        path = self._file(key)
        try:
            with path.open(encoding="utf-8") as file:
                header: dict[str, Any] = json.loads(file.readline())
            if header["run"] != self._stamps.get(key):
                return None
            keys, labels = ([row[k] for row in header["tracklets"]] for k in (0, 1))
            return FinishedVideo(path, header["note"], header["size"], keys, labels)
        except (OSError, ValueError, LookupError, TypeError):
            return None  # not there, or damaged

    def begin(self, video: MaskVideo, masks: VideoMasks, frames: FrameSet) -> AtomicFile:
        """File for the changes of a video; it counts as finished when it is committed."""
        file = AtomicFile(self._file(video.key), durable=False)
        header = {
            "run": self._stamps[video.key],
            "note": masks.note,
            "size": list(frames.size),
            "tracklets": [[t.key, t.label] for t in masks.tracklets],
        }
        file.write(spell(header))
        return file

    def write_confidence(self, video: MaskVideo, frames: FrameSet, t: int, levels: Frame) -> None:
        """Write the map of a frame where ``--confidence`` says; nowhere without it.

        Args:
            video: that the frame is of.
            frames: of that video.
            t: index of the frame.
            levels: (H, W) uint8, see ``RefinedFrame.confidence_map``.

        Raises:
            OutputError: it cannot be written.
        """
        if self._confidence is None:
            return
        alone = len(self._masks.videos) == 1
        folder = self._confidence if alone else self._confidence / _safe_name(video.key)
        make_folder(folder)
        name = f"{t:05d}" if frames.stems is None else frames.stems[t]
        _, coded = cv2.imencode(".png", levels)
        with AtomicFile(folder / f"{name}.png", durable=False) as file:
            file.write(coded.tobytes())

    def _file(self, key: str) -> Path:
        return self.path / f"{_safe_name(key)}.jsonl"

    def write_output(self) -> None:
        """Put the output together; it appears whole or not at all.

        Raises:
            OutputError: it cannot be written; finished videos stay in the work folder.
        """
        result = self.path / "result"
        try:
            if result.is_dir():
                shutil.rmtree(result)
            for relative, pieces in self._masks.rewrite(lambda key: self.finished(key) or ()):
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


def work_path(options: RefineOptions) -> Path:
    """The work folder of a run."""
    return options.output.with_name(options.output.name + ".part")


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
    size: list[int]
    keys: list[str]
    labels: list[str]

    def __iter__(self) -> Iterator[Change]:
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                t, name, rows = json.loads(line)
                for n, area, changed, confidence, rejected, counts in rows:
                    mask = rle.Rle(size=self.size, counts=counts) if counts else None
                    key = self.keys[n]
                    yield Change(t, name, n, key, area, changed, confidence, bool(rejected), mask)


def _safe_name(key: str) -> str:
    """A file name; two keys may look alike then, a checksum keeps them apart."""
    safe = re.sub(r"[^\w.-]", "_", key)[:120]
    return safe if safe == key else f"{safe}_{zlib.crc32(key.encode()):08x}"


def spell(record: Any) -> bytes:
    """A line of a work file."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def check_places(masks: MaskFile, options: RefineOptions) -> None:
    """Refuse outputs that would lose something or cannot be written, before any work is done.

    Raises:
        OutputError: one is the input or another output, or something else stands there.
    """
    source, output = masks.path, options.output
    if output.resolve() == source.resolve():
        raise OutputError(f"{output}: would overwrite the input; give another name.")
    if source.is_dir() and output.exists() and (output.is_file() or any(output.iterdir())):
        raise OutputError(f"{output}: exists and is not empty; delete it or give another name.")
    if not source.is_dir() and output.is_dir():
        raise OutputError(f"{output}: is a folder, but {masks.form} are one file; name a file.")
    make_folder(output.parent)
    taken = {source.resolve(): "--masks", output.resolve(): "--output"}
    if options.confidence is not None:
        _check_maps(options.confidence, options, taken)
    for option, path in (("--log", options.log_path), ("--report", options.report)):
        if path is None:
            continue
        if other := taken.get(path.resolve()):
            raise OutputError(f"{option} {path}: is the file of {other}; give another name.")
        if path.is_dir():
            raise OutputError(f"{option} {path}: is a folder; name a file.")
        make_folder(path.parent)
        AtomicFile(path).discard()
        taken[path.resolve()] = option


def _check_maps(folder: Path, options: RefineOptions, taken: dict[Path, str]) -> None:
    """Refuse a folder for maps in which something else lies; that of a run cut short is none."""
    if options.images is not None:
        taken = taken | {options.images.resolve(): "--images"}
    if other := taken.get(folder.resolve()):
        raise OutputError(f"--confidence {folder}: is {other} too; name another folder.")
    make_folder(folder)
    if any(folder.iterdir()) and not work_path(options).exists():
        raise OutputError(f"--confidence {folder}: is not empty; delete it or name another folder.")


def count_text(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
