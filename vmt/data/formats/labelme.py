"""Folders of labelme files to records: a JSON file per frame, a folder per video."""

from __future__ import annotations

from pathlib import Path

from cocoapi_hq.io import rle
from cocoapi_hq.io.listing import list_folders
from vmt.data.formats.drawn import DrawnVideo, Source, open_video, order_note, to_source
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
        folder, video = open_video(images, [name or path.resolve().name])
        if name and folder == images:
            raise AnnotationError(
                f"{images / name}: no such folder; the frames of {path / name} must be there."
            )
        video.name = name or path.resolve().name
        note = _read(files, folder, video)
        videos.append(video)
        notes += [f"{video.name}: {note}"] if note else []
    if not videos:
        raise AnnotationError(f"{path}: holds no labelme file (JSON with a list 'shapes').")
    notes += order_note(videos, "give each its own group_id in labelme where that is wrong")
    return to_source(path, images, videos, notes=notes)


def _read(files: tuple[Path, ...], folder: Path, video: DrawnVideo) -> str:
    """Add the objects of a video's files; returns what a person should know."""
    stems, codec = tuple(path.stem for path in video.files), PolygonCodec()
    note = codec.survey(files, video.size)
    frames = FrameSet(str(folder), video.size, stems, len(stems))
    pairs = FolderVideo.of(files, codec, video.name).pair(frames).files
    video.annotated.update(pairs)
    for t, (file,) in pairs.items():
        content = read_polygons(file)
        for key, mask in content.masks(video.size).items():
            if rle.area(mask):
                video.add(key, content.labels[key].strip(), t, mask)
    return note
