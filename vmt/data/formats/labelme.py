"""Folders of labelme files to records: a JSON file per frame, a folder per video."""

from __future__ import annotations

from pathlib import Path

from cocoapi_hq.io import rle
from cocoapi_hq.io.listing import list_folders
from vmt.data.formats.drawn import DrawnVideo, Source, open_frames, order_note, to_source
from vmt.data.images import picture_size
from vmt.data.mask_files.base import FrameSet
from vmt.data.mask_files.folders import FolderVideo
from vmt.data.mask_files.polygons import PolygonCodec, polygon_files, read_polygons
from vmt.utils.errors import AnnotationError


def load_labelme(path: Path, images: Path) -> Source:
    """Read labelme files; who is one object, and what is none, see ``mask_files.polygons``.

    Args:
        path: folder of JSON files, or of such folders, one per video.
        images: folder of the frames; or of folders that are called as those of the files.

    Raises:
        AnnotationError: the files break the format, or do not belong to these frames.
        VideoError: a folder of frames is missing or empty.
    """
    own = polygon_files(path)
    found = [("", own)] if own else [(f.name, polygon_files(f)) for f in list_folders(path)]
    videos, notes = [], []
    for name, files in found:
        if not files:
            continue
        folder, frames = open_frames(images, [name or path.resolve().name])
        if name and folder == images:
            raise AnnotationError(
                f"{images / name}: no such folder; the frames of {path / name} must be there."
            )
        video, note = _read(name or path.resolve().name, files, folder, list(frames.values()))
        videos.append(video)
        notes += [f"{video.name}: {note}"] if note else []
    if not videos:
        raise AnnotationError(f"{path}: holds no labelme file (JSON with a list 'shapes').")
    notes += order_note(videos, "give each its own group_id in labelme where that is wrong")
    return to_source(path, images, videos, notes=notes)


def _read(
    name: str, files: tuple[Path, ...], folder: Path, frames: list[Path]
) -> tuple[DrawnVideo, str]:
    size = picture_size(frames[0])
    shown = FrameSet(str(folder), size, tuple(path.stem for path in frames), len(frames))
    codec = PolygonCodec()
    note = codec.survey(files, size)
    pairs, _ = FolderVideo.of(files, codec, name).pair(shown)
    video = DrawnVideo(name, frames, size, set(pairs))
    for t, (file,) in pairs.items():
        content = read_polygons(file)
        for key, mask in content.masks(size).items():
            if rle.area(mask):
                video.add(key, content.labels[key].strip(), t, mask)
    return video, note
