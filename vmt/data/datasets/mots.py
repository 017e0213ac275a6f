"""BDD100K MOTS to records: Scalabel JSON (run lengths, polygons) or folders of bitmask PNGs.

Regions that are marked crowd or ignored are left out: they are for scoring alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq.io import rle
from cocoapi_hq.io.listing import list_files, list_folders
from cocoapi_hq.mots import bitmask_png, frame_masks, mots_config, scalabel_io
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS, MotsConfig
from vmt.data.images import read_frame
from vmt.data.listing import list_frames
from vmt.data.records import PackedList, Tracklet, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError, scoring_errors

#: Category ids count from 1 in the order of the classes, as bitmasks store them.
CATEGORIES = dict(enumerate(BDD100K_MOTS.classes, start=1))


def load_mots(path: Path, image_root: Path, name: str, mask_key: str = "") -> VideoList:
    """Read BDD100K MOTS labels.

    Args:
        path: a Scalabel JSON, a folder of such files (one per video), or a folder of bitmasks with
            one sub-folder of PNG files per video; or ``image_root`` itself: there are no labels.
        image_root: holds ``<video>/<frame>.jpg``.
        name: of the data set.
        mask_key: unused; readers share their signature.

    Returns:
        One record per video, sorted by name, ids from 1.

    Raises:
        AnnotationError: a label breaks its format.
        VideoError: a folder of frames is missing or empty.
    """
    del mask_key
    if path == image_root:
        return _load_frames(image_root, name)
    with scoring_errors():
        if path.is_dir() and not list_files(path, (".json",)):
            return _load_bitmasks(path, image_root, name)
        config = _config(path)
        frames = scalabel_io.load_frames(path, config, is_gt=True)
        videos = frame_masks.group_by_video(frames)
    records = []
    for number, (video, members) in enumerate(videos.items(), start=1):
        files = tuple(f"{video}/{Path(frame.name).name}" for frame in members)
        packed = PackedList(_rows(frame) for frame in members)
        height, width = _size(members, image_root / files[0])
        indices = tuple(frame.index for frame in members)
        where = tuple(frame.where for frame in members)
        annotations = MotsAnnotations(packed, where, indices)
        records.append(
            VideoRecord(number, video, image_root, files, height, width, annotations, name)
        )
    names = dict(enumerate(config.classes, start=1))
    return VideoList(name, names, records)


def _config(path: Path) -> MotsConfig:
    inside = mots_config.config_inside(path) if path.is_file() else None
    return mots_config.load_config(dict(inside)) if inside else BDD100K_MOTS


def _size(members: Sequence[FrameMasks], first_image: Path) -> tuple[int, int]:
    for frame in members:
        for mask in frame.rles:
            return mask["size"][0], mask["size"][1]
    height, width = read_frame(first_image).shape[:2]
    return int(height), int(width)


def _rows(frame: FrameMasks) -> list[list[Any]]:
    """[track id, category id, mask] of what is to be learnt."""
    return [
        [frame.track_ids[i], frame.labels[i] + 1, frame.rles[i]]
        for i in range(len(frame.rles))
        if not frame.ignored[i]
    ]


def _gather(frames: Sequence[int], rows_of: dict[int, list[Any]], where: str) -> Iterator[Tracklet]:
    """Rows per frame to tracklets."""
    masks: dict[tuple[int, int], dict[int, Any]] = {}
    for t, rows in rows_of.items():
        for track, category, mask in rows:
            masks.setdefault((track, category), {})[t] = mask
    for (track, category), by_frame in sorted(masks.items()):
        found = tuple(by_frame.get(t) for t in frames)
        yield Tracklet(track, category, found, f"{where}: id {track}")


@dataclass(frozen=True)
class MotsAnnotations:
    """The labels of one video.

    Args:
        rows: per frame [track id, category id, mask] of every object.
        where: per frame file and place, for messages.
        indices: per frame its number in the video, as the file counts.
    """

    rows: PackedList
    where: tuple[str, ...]
    indices: tuple[int, ...]

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Tracklets of the objects that the asked frames show."""
        frames = range(len(self.rows)) if frames is None else frames
        rows = {t: self.rows[t] for t in sorted(set(frames))}
        return list(_gather(frames, rows, self.where[frames[0]] if len(frames) else ""))


def _load_frames(image_root: Path, name: str) -> VideoList:
    """Videos without labels."""
    records = []
    for number, folder in enumerate(list_folders(image_root), start=1):
        frames = list(list_frames(folder).values())
        height, width = read_frame(frames[0]).shape[:2]
        files = tuple(f"{folder.name}/{path.name}" for path in frames)
        size = (int(height), int(width))
        records.append(VideoRecord(number, folder.name, image_root, files, *size, None, name))
    if not records:
        raise AnnotationError(f"{image_root}: holds no folder of frames; give one per video.")
    return VideoList(name, CATEGORIES, records)


# --- bitmasks -----------------------------------------------------------------------------------


def _load_bitmasks(path: Path, image_root: Path, name: str) -> VideoList:
    records = []
    videos = bitmask_png.list_bitmasks(path, "ground truth")
    for number, (video, maps) in enumerate(videos.items(), start=1):
        frames = list_frames(image_root / video)
        missing = [p for p in maps if p.stem not in frames]
        if missing:
            raise AnnotationError(
                f"{missing[0]}: no frame of that name in {image_root / video} ({len(missing)} "
                "bitmasks have none); bitmasks and frames pair by file name."
            )
        files = tuple(f"{video}/{frames[p.stem].name}" for p in maps)
        height, width = read_frame(image_root / files[0]).shape[:2]
        records.append(
            VideoRecord(
                id=number,
                name=video,
                image_root=image_root,
                file_names=files,
                height=int(height),
                width=int(width),
                annotations=BitmaskAnnotations(tuple(maps), (int(height), int(width))),
                dataset=name,
            )
        )
    return VideoList(name, CATEGORIES, records)


@dataclass(frozen=True)
class BitmaskAnnotations:
    """The bitmasks of one video, read frame by frame.

    Args:
        paths: one RGBA PNG per frame.
        size: (h, w) of the frames.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int]

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Tracklets of the objects that the asked frames show, from their PNGs."""
        frames = range(len(self.paths)) if frames is None else frames
        with scoring_errors():
            rows = {t: list(self._read(self.paths[t])) for t in sorted(set(frames))}
        return list(_gather(frames, rows, str(self.paths[0].parent)))

    def _read(self, path: Path) -> Iterable[list[Any]]:
        bitmask = bitmask_png.read_bitmask(path, BDD100K_MOTS)
        if bitmask.instance_map.shape != self.size:
            raise AnnotationError(
                f"{path}: is {bitmask.instance_map.shape} (h, w), but the frames of its video are "
                f"{self.size}; write it at the size of the frames."
            )
        for i in np.flatnonzero((bitmask.labels >= 0) & ~bitmask.ignored).tolist():
            mask = rle.encode(bitmask.instance_map == i + 1)
            yield [int(bitmask.track_ids[i]), int(bitmask.labels[i]) + 1, mask]


def frame_indices(record: VideoRecord) -> tuple[int, ...]:
    """Numbers of the frames of a video, as its labels count; 0, 1, ... where they do not."""
    annotations = record.annotations
    if isinstance(annotations, MotsAnnotations):
        return annotations.indices
    return tuple(range(len(record)))
