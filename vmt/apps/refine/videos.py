"""Refine whole mask files: videos one by one, each kept on disk as it is done.

What became of a video lies in ``OUT.part/<video>.jsonl``: a header, then one line per frame. A run
that was cut short goes on behind the videos that are done; at the end the output is put together
from them and gets its name.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.data.frame_names import frame_path, why_missing
from vmt.data.listing import list_frames
from vmt.data.mask_files.base import (
    BoolArray,
    Change,
    FrameChanges,
    FrameSet,
    MaskFile,
    MaskVideo,
    TrackletName,
    VideoMasks,
    size_text,
)
from vmt.data.mask_files.folders import FolderVideo
from vmt.inference.mask_refiner import FrameRefiner, RefinedFrame
from vmt.inference.refine_defaults import ACCEPT, WINDOW
from vmt.inference.sources import FrameList, VideoSource, open_videos
from vmt.inference.video_file import VideoFile, count_frames
from vmt.utils.atomic import AtomicFile, make_folder, output_error
from vmt.utils.errors import AnnotationError, OutputError, VideoError, VmtError


@dataclass(frozen=True)
class RefineOptions:
    """How masks are refined.

    Args:
        accept: see ``FrameRefiner.stream``.
        window: see there.
        steady: see ``MaskRefiner``; the refiner was built with it.
        refiner: which network; a finished video of another one is done again.
    """

    accept: float = ACCEPT
    window: int = WINDOW
    steady: int = 0
    refiner: str = ""


# --- frames --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundFrames:
    """The frames of a video, not read yet.

    Args:
        open: reads them.
        stamp: differs when the files do: their places, sizes and times of change.
    """

    open: Callable[[], VideoSource]
    stamp: str


def _found(open_source: Callable[[], VideoSource], files: Iterable[Path]) -> FoundFrames:
    digest = hashlib.sha1(usedforsecurity=False)
    for path in files:
        if not path.exists():  # a camera, a pattern
            continue
        status = path.stat()
        digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return FoundFrames(open_source, digest.hexdigest())


def find_frames(
    masks: MaskFile, video: MaskVideo, images: Path | None, clip: Path | None
) -> FoundFrames:
    """Where the frames of a video are.

    Args:
        masks: the file that holds the video.
        video: one of its videos.
        images: folder that the file's frame names start from; or that holds the frames of its only
            video; or a folder per video.
        clip: video file, in place of ``images``.

    Raises:
        VideoError: they are not there.
    """
    alone = len(masks.videos) == 1
    if clip is not None:
        if not alone:
            raise VideoError(
                f"{clip}: is one video, but {masks.path} holds masks of {len(masks.videos)}; give "
                "the folder of their frames with --images."
            )
        return _found(next(iter(open_videos(str(clip)))), [clip])
    if images is None or not images.is_dir():
        raise VideoError(f"{images}: no such folder of frames; check --images.")
    if video.file_names is not None:
        paths = _listed_frames(images, video.file_names, video.label, alone=alone)
        return _found(lambda: FrameList(video.label, paths), paths)
    candidates = [images / name for name in (video.folder, video.label) if name]
    folder = next((path for path in candidates if path.is_dir()), images if alone else None)
    if folder is None:
        raise VideoError(
            f"{candidates[0]}: no such folder; the frames of {video.label} must be there, or name "
            "them with --annotations."
        )
    paths = list(list_frames(folder).values())
    if isinstance(video, FolderVideo):
        video.refuse_frames(paths)
    return _found(lambda: FrameList(folder.resolve().name, paths), paths)


def _listed_frames(images: Path, names: Sequence[str], label: str, *, alone: bool) -> list[Path]:
    roots = [images, images / "JPEGImages"]
    root = next((path for path in roots if frame_path(path, names[0]).is_file()), images)
    paths = [frame_path(root, name) for name in names]
    if alone and not paths[0].is_file() and (images / Path(names[0]).name).is_file():
        paths = [images / Path(name).name for name in names]
    missing = [t for t, path in enumerate(paths) if not path.is_file()]
    if missing:
        name = names[missing[0]]
        why = why_missing(name, images) or (
            "--images must be the folder that the frame names in the mask file start from"
        )
        raise VideoError(
            f"{images / name}: no such frame ({len(missing)} of {len(paths)} frames of {label} are "
            f"missing); {why}."
        )
    return paths


def frame_set(source: VideoSource) -> FrameSet:
    """What masks must know of frames."""
    paths = source.paths if isinstance(source, FrameList) else None
    where = source.name if paths is None else str(paths[0].parent)
    stems = None if paths is None else tuple(path.stem for path in paths)
    turned = isinstance(source, FrameList | VideoFile) and source.turned
    return FrameSet(where, source.size, stems, _count(source), turned)


def _count(source: VideoSource) -> int | None:
    """Frames that a source gives, whatever its header says; None for what comes only once."""
    if source.num_frames is None and isinstance(source, VideoFile):
        status = source.path.stat()
        return _count_file(source.path, status.st_size, status.st_mtime_ns)
    return source.num_frames


@lru_cache
def _count_file(path: Path, size: int, changed: int) -> int:
    del size, changed
    return count_frames(path)


# --- work folder ---------------------------------------------------------------------------------


class WorkFolder:
    """Finished videos of a run, ``OUT.part``.

    Args:
        output: file or folder that the run makes.
        options: a finished video of other options is done again.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, output: Path, options: RefineOptions) -> None:
        self.path = make_folder(output.with_name(output.name + ".part"))
        self._output = output
        self._options = options
        self._stamps: dict[str, str] = {}

    def expect(self, video: MaskVideo, frames: FoundFrames) -> None:
        """Say which frames a video has; one that nothing was said of is never finished."""
        self._stamps[video.key] = f"{video.stamp()} {frames.stamp} {self._options}"

    def finished(self, video: MaskVideo) -> FinishedVideo | None:
        """A video that is done, unless its masks, frames or the options have changed since."""
        stamp = self._stamps.get(video.key)
        found = None if stamp is None else FinishedVideo.open(self._file(video.key))
        return found if found is not None and found.run == stamp else None

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
        file.write(_line(header))
        return file

    def _file(self, key: str) -> Path:
        safe = re.sub(r"[^\w.-]", "_", key)[:120]
        # Two names may become one; a checksum keeps them apart.
        return self.path / (f"{safe}.jsonl" if safe == key else f"{safe}_{_sum(key):08x}.jsonl")

    def write_output(self, masks: MaskFile) -> None:
        """Put the output together; it appears whole or not at all.

        Raises:
            OutputError: it cannot be written; finished videos stay in the work folder.
        """
        known = {video.key: video for video in masks.videos}
        result = self.path / "result"
        try:
            if result.is_dir():
                shutil.rmtree(result)
            for relative, pieces in masks.rewrite(lambda key: self.finished(known[key])):
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
    """What became of a video; frames are read from disk one by one.

    Args:
        path: of its work file.
        run: made by what, of what.
        label: of the video.
        note: see ``VideoMasks``.
        size: (h, w) in pixels.
        tracklets: N objects.
    """

    path: Path
    run: str
    label: str
    note: str
    size: tuple[int, int]
    tracklets: tuple[TrackletName, ...]

    @classmethod
    def open(cls, path: Path) -> FinishedVideo | None:
        """Read the header; None when there is no such file or it is damaged."""
        try:
            with path.open(encoding="utf-8") as file:
                header: dict[str, Any] = json.loads(file.readline())
            height, width = header["size"]
            tracklets = tuple(TrackletName(key, label) for key, label in header["tracklets"])
            return cls(
                path, header["run"], header["label"], header["note"], (height, width), tracklets
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __iter__(self) -> Iterator[FrameChanges]:
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                frame, name, rows = json.loads(line)
                changes = [Change(n, a, px, c, bool(r), text) for n, a, px, c, r, text in rows]
                yield FrameChanges(frame, name, self.size, changes)


def _line(record: Any) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _sum(text: str) -> int:
    return zlib.crc32(text.encode())


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


# --- one video -----------------------------------------------------------------------------------


def refine_video(
    video: MaskVideo,
    source: VideoSource,
    refiner: FrameRefiner,
    work: WorkFolder,
    options: RefineOptions,
    progress: Callable[[int, int | None], object] = lambda done, total: None,
) -> str:
    """Refine the masks of one video and keep what became of them in the work folder.

    Args:
        video: of a mask file.
        source: its frames.
        refiner: sharpens them.
        work: gets the changes.
        options: how.
        progress: told how many frames are finished, and of how many (None where it is unknown).

    Returns:
        What a person should know, may be empty.

    Raises:
        AnnotationError: masks and frames do not belong together.
        VideoError: a frame cannot be read.
        OutputError: the disk is full.
    """
    if isinstance(source, VideoFile):
        source.check_whole()
    frames = frame_set(source)
    masks = video.load(frames)
    _check_count(video, masks, frames)
    with work.begin(video, masks, frames) as file:
        if not masks.frames:
            return f"{masks.note} There is no mask to refine.".strip()
        start = masks.frames[0] if isinstance(source, FrameList) else 0
        if isinstance(source, FrameList) and len(source.paths) > masks.frames[-1] + 1 - start:
            paths = source.paths[start : masks.frames[-1] + 1]
            source = FrameList(source.name, paths)
        pairs = _Pairs(video, source, masks, frames, start)
        stream = refiner.stream(
            pairs.frames(), pairs.masks(), accept=options.accept, window=options.window
        )
        try:
            for t, refined in enumerate(stream, start):
                rows = _changes(refined, pairs.areas.popleft())
                if rows:
                    file.write(_line([t, masks.name(t), rows]))
                progress(t - start + 1, source.num_frames)
        except VmtError:
            raise
        except ValueError as error:
            raise AnnotationError(f"{video.label}: {error}") from None
        if pairs.until <= masks.frames[-1]:
            raise AnnotationError(
                f"{video.label}: has masks up to frame {masks.frames[-1]}, but {frames.where} has "
                f"only {pairs.until} frames; give the video that the masks belong to."
            )
    return masks.note


def _check_count(video: MaskVideo, masks: VideoMasks, frames: FrameSet) -> None:
    if None not in (masks.length, frames.count) and masks.length != frames.count:
        raise AnnotationError(
            f"{video.label}: has masks for {masks.length} frames, but {frames.where} has "
            f"{frames.count}; give the frames that the masks were drawn on."
        )


class _Pairs:
    """Hands out frames and their masks side by side, and remembers which masks had pixels.

    Args:
        video: for messages.
        source: frames from ``start`` on.
        loaded: masks.
        info: of the frames, for messages.
        start: index of the first frame.
    """

    def __init__(
        self, video: MaskVideo, source: VideoSource, loaded: VideoMasks, info: FrameSet, start: int
    ) -> None:
        self.until = start
        self.areas: deque[npt.NDArray[np.int64]] = deque()
        self._video = video
        self._source = source
        self._loaded = loaded
        self._info = info
        self._start = start

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        for frame in self._source:
            if frame.shape[:2] != self._info.size:
                raise VideoError(
                    f"{self._info.where}: frame {self.until} is {size_text(frame.shape)} pixels, "
                    f"but the first is {size_text(self._info.size)}; the frames of one video must "
                    "have one size."
                )
            self.until += 1
            yield frame

    def masks(self) -> Iterator[BoolArray]:
        t = self._start
        while t < self.until:
            length = self._loaded.length
            if length is not None and t >= length:
                raise AnnotationError(
                    f"{self._video.label}: has masks for {length} frames, but {self._info.where} "
                    "has more; give the frames that the masks were drawn on."
                )
            masks = self._loaded.at(t)
            self.areas.append(np.count_nonzero(masks, axis=(1, 2)).astype(np.int64))
            yield masks
            t += 1


def _changes(refined: RefinedFrame, areas: npt.NDArray[np.int64]) -> list[list[Any]]:
    """One row of ``Change`` per mask that the frame has."""
    rows = []
    for n in np.flatnonzero(areas).tolist():
        changed = int(refined.changed_px[n])
        counts = rle.encode(refined.masks[n])["counts"] if changed else None
        confidence = round(float(refined.confidence[n]), 4)
        rejected = int(refined.rejected[n])
        rows.append([n, int(areas[n]), changed, confidence, rejected, counts])
    return rows
