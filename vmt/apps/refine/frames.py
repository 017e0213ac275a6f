"""The frames that masks belong to: where they are, and what masks must know of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vmt.data.frame_names import frame_path, why_missing
from vmt.data.images import Frame
from vmt.data.listing import list_frames
from vmt.data.mask_files.base import FrameSet, MaskFile, MaskVideo
from vmt.data.mask_files.folders import FolderVideo
from vmt.inference.sources import FrameList, VideoSource, open_videos
from vmt.inference.video_file import VideoFile, count_frames
from vmt.utils.errors import VideoError


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a video, not read yet.

    Args:
        open: reads them.
        stamp: differs when the files do: their places, sizes and times of change.
    """

    open: Callable[[], VideoSource]
    stamp: str


def _stamped(open_source: Callable[[], VideoSource], files: Iterable[Path]) -> VideoFrames:
    digest = hashlib.sha1(usedforsecurity=False)
    for path in files:
        if path.exists():  # no camera, no pattern
            status = path.stat()
            digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return VideoFrames(open_source, digest.hexdigest())


def find_frames(
    masks: MaskFile, video: MaskVideo, images: Path | None, clip: Path | None
) -> VideoFrames:
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
        return _stamped(next(iter(open_videos(str(clip)))), [clip])
    if images is None or not images.is_dir():
        raise VideoError(f"{images}: no such folder of frames; check --images.")
    name = video.label
    if video.file_names is not None:
        paths = _listed_frames(images, video.file_names, name, alone=alone)
    else:
        candidates = [images / folder for folder in (video.folder, name) if folder]
        folder = next((path for path in candidates if path.is_dir()), images if alone else None)
        if folder is None:
            raise VideoError(
                f"{candidates[0]}: no such folder; the frames of {name} must be there, or name "
                "them with --annotations."
            )
        paths = list(list_frames(folder).values())
        if isinstance(video, FolderVideo):
            video.refuse_frames(paths)
        name = folder.resolve().name
    return _stamped(lambda: FrameList(name, paths), paths)


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
    count = source.num_frames
    if count is None and isinstance(source, VideoFile):  # whatever its header says
        status = source.path.stat()
        count = _count(source.path, status.st_size, status.st_mtime_ns)
    return FrameSet(where, source.size, stems, count, turned)


@lru_cache  # it may decode the whole file
def _count(path: Path, size: int, changed: int) -> int:
    del size, changed
    return count_frames(path)


def chosen_frames(source: VideoSource, numbers: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Some frames of a video, by ascending index."""
    if isinstance(source, FrameList):
        paths = [source.paths[t] for t in numbers]
        if paths:
            yield from zip(numbers, FrameList(source.name, paths), strict=True)
        return
    for t, frame in enumerate(source):
        if t in numbers:
            yield t, frame
        if t >= numbers[-1]:
            return
