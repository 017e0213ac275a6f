"""Other annotation formats to YouTube-VIS JSON, which everything else reads.

Each source is read into records first (``vmt.data.records``); one writer serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import write_json
from cocoapi_hq.io.listing import list_files, natural_key
from vmt.data.datasets.categories import category_names
from vmt.data.datasets.coco import read_coco
from vmt.data.datasets.folders import load_png_folders
from vmt.data.datasets.mots import load_mots
from vmt.data.formats.cvat import load_cvat
from vmt.data.formats.drawn import MemoryAnnotations, Source
from vmt.data.formats.labelme import load_labelme
from vmt.data.formats.via import load_via
from vmt.data.images import read_frame
from vmt.data.label_maps import MOTS_CLASSES, MOTS_IGNORE
from vmt.data.listing import list_frames
from vmt.data.mask_files.base import checked_mask, idle_note, idle_rings, list_few
from vmt.data.names import FORMATS, read_void
from vmt.data.records import Tracklet, VideoDataset, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError, OutputError, scoring_errors

Row = dict[str, Any]


def open_source(
    kind: str, path: Path, images: Path, *, sparse: bool = False, void: str | None = None
) -> Source:
    """Read annotations of another format.

    Args:
        kind: one of ``FORMATS``.
        path: file or folder of annotations.
        images: folder of frames.
        sparse: leave frames out that have no masks (``png``).
        void: pixel value that is no object, or ``none``; None finds out (``png``).

    Raises:
        AnnotationError: the annotations break their format.
        VideoError: frames are missing.
    """
    if kind == "coco-video":
        return load_coco_video(path, images)
    if kind == "png":
        notes: list[str] = []
        value, guess = read_void(void)
        data = load_png_folders(
            path,
            images,
            path.name,
            strict=not sparse,
            void=value,
            guess_void=guess,
            report=notes.append,
        )
        return Source(data, notes)
    if kind == "mots":
        return Source(load_mots(path, images, path.name))
    if kind == "mots-txt":
        return load_mots_txt(path, images)
    if kind == "labelme":
        return load_labelme(path, images)
    if kind == "cvat":
        return load_cvat(path, images)
    if kind == "via":
        return load_via(path, images)
    raise AnnotationError(f"unknown format {kind!r}; choose {', '.join(FORMATS)}.")


@dataclass(frozen=True)
class Written:
    """What a file holds.

    Args:
        counts: of ``videos``, ``frames`` and ``annotations``.
        notes: what was left out, one sentence each.
    """

    counts: dict[str, int]
    notes: Sequence[str]


def write_ytvis_json(data: VideoDataset, path: Path) -> Written:
    """Write a data set as YouTube-VIS JSON; the file appears whole or not at all.

    Args:
        data: videos with annotations.
        path: of the JSON.

    Raises:
        AnnotationError: a mask is damaged or of another size than its frame, or there is none.
        OutputError: the file cannot be written.
    """
    videos: list[Row] = []
    annotations: list[Row] = []
    idle: list[str] = []
    invisible = 0
    for record in (data[k] for k in range(len(data))):
        shared = {"height": record.height, "width": record.width, "length": len(record)}
        videos.append({"id": record.id, **shared, "file_names": list(record.file_names)})
        for tracklet in record.tracklets():
            row = _annotation(tracklet, record, idle)
            invisible += row is None
            if row is not None:
                identity = {"id": len(annotations) + 1, "video_id": record.id}
                annotations.append(identity | row | {"iscrowd": 0} | shared)
    if not annotations:
        raise AnnotationError(
            f"{data.name}: not one object with a mask is left to write ({len(videos)} videos, "
            f"{invisible} objects without a pixel); nothing is written."
        )
    content = {
        "info": {"description": data.name},
        "videos": videos,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in data.categories.items()],
    }
    with scoring_errors(OutputError):
        write_json(path, content)
    frames = sum(len(video["file_names"]) for video in videos)
    notes = [idle_note(idle)] if idle else []
    if invisible:
        notes.append(f"{invisible} objects without a pixel in any frame are left out.")
    counts = {"videos": len(videos), "frames": frames, "annotations": len(annotations)}
    return Written(counts, notes)


def _annotation(tracklet: Tracklet, record: VideoRecord, idle: list[str]) -> Row | None:
    """The masks of a tracklet; None when it is never visible. ``idle`` gets idle rings."""
    masks: list[rle.Rle | None] = []
    for t, mask in enumerate(tracklet.masks):
        idle += idle_rings(mask, f"{tracklet.where}, frame {t}")
        coded = None if rle.is_absent(mask) else checked_mask(mask, tracklet.where, record.size)
        if coded is not None and tuple(coded["size"]) != record.size:
            raise AnnotationError(
                f"{tracklet.where}: a mask has size {coded['size']}, but the frames of video "
                f"{record.name} are {list(record.size)} (h, w)."
            )
        masks.append(coded if coded is not None and rle.area(coded) else None)
    if not any(masks):
        return None
    return {
        "category_id": tracklet.category_id,
        "segmentations": masks,
        "bboxes": [mask and list(rle.to_box(mask)) for mask in masks],
        "areas": [mask and rle.area(mask) for mask in masks],
    }


# --- COCO with a video id per image -------------------------------------------------------------

_TRACK_KEYS = ("track_id", "instance_id", "object_id")
_TIME_KEYS = ("frame_id", "frame_index", "frame_number")


def load_coco_video(path: Path, image_root: Path) -> Source:
    """COCO JSON whose images have ``video_id``, and whose annotations have a track id.

    Frames are ordered by ``frame_id`` (or ``frame_index``, ``frame_number``), a number or text that
    spells one, else by file name in natural order.
    The track of an annotation is its ``track_id``, ``instance_id`` or ``object_id``. Video names
    come from ``videos``, where the file has them. Crowds and rows that have only a box are left
    out. A track is of one class, unless tracks are counted class by class: then one number stands
    for several objects in one image.

    Args:
        path: the JSON.
        image_root: folder of the images.

    Raises:
        AnnotationError: a value is missing or refers to nothing, a track changes its class, or no
            row has a mask.
    """
    content = read_coco(path)
    videos = _frames_of_videos(content["images"], path)
    place = {row["id"]: (key, t) for key, rows in videos.items() for t, row in enumerate(rows)}
    tracks, notes = _tracks(content["annotations"], place, path)
    classes = category_names(content["categories"])
    notes += _check_classes(tracks, classes, path)
    names = {
        row.get("id"): str(row.get("name", row.get("id")))
        for row in content.get("videos", [])
        if isinstance(row, dict)
    }
    records = []
    keep_ids = all(is_int(key) and key >= 1 for key in videos)
    by_name = sorted(videos.items(), key=lambda item: natural_key(str(item[0])))
    for number, (key, rows) in enumerate(by_name, start=1):
        own = {name[1:]: masks for name, masks in tracks.items() if name[0] == key}
        tracklets = [
            Tracklet(
                id=k,
                category_id=category,
                masks=tuple(masks.get(t) for t in range(len(rows))),
                where=f"{path}: video {key!r}, track {track!r}",
            )
            for k, ((track, category), masks) in enumerate(own.items(), start=1)
        ]
        records.append(
            VideoRecord(
                id=int(key) if keep_ids else number,
                name=names.get(key, str(key)),
                image_root=image_root,
                file_names=tuple(row["file_name"] for row in rows),
                height=rows[0]["height"],
                width=rows[0]["width"],
                annotations=MemoryAnnotations(tuple(tracklets)),
                dataset=path.name,
            )
        )
    return Source(VideoList(path.name, classes, records), notes)


def _frames_of_videos(rows: Sequence[Any], path: Path) -> dict[Any, list[Row]]:
    """Video id -> its images in order of time."""
    videos: dict[Any, list[Row]] = {}
    for k, row in enumerate(rows):
        where = f"{path}: images[{k}]"
        if not isinstance(row, dict):
            raise AnnotationError(f"{where} is {short(row)}; give an object.")
        for key in ("id", "video_id", "file_name", "height", "width"):
            if row.get(key) is None:
                raise AnnotationError(f"{where} has no {key!r}.")
        videos.setdefault(row["video_id"], []).append(row)
    for key, frames in videos.items():
        sort_by_time(frames, f"{path}: video {key!r}")
        sizes = {(row["height"], row["width"]) for row in frames}
        if len(sizes) > 1:
            raise AnnotationError(
                f"{path}: the images of video {key!r} have the sizes {sorted(sizes)}; "
                "one is needed."
            )
    return videos


def sort_by_time(rows: list[Row], where: str) -> None:
    """Put the images of a video in order: by the first of ``_TIME_KEYS`` that they have."""
    key = next((key for key in _TIME_KEYS if any(row.get(key) is not None for row in rows)), None)
    if key is None:
        rows.sort(key=lambda row: natural_key(str(row["file_name"])))
        return
    times: dict[float, Row] = {}
    for row in rows:
        name = short(row["file_name"])
        if row.get(key) is None:
            raise AnnotationError(
                f"{where}: image {name} has no {key!r}, which others have; give it to all images "
                "of a video, or to none: then file names give the order."
            )
        time = _number(row[key])
        if time is None:
            raise AnnotationError(
                f"{where}: image {name} has the {key} {short(row[key])}, which is no number; give "
                "numbers, or none: then file names give the order."
            )
        if time in times:
            raise AnnotationError(
                f"{where}: images {short(times[time]['file_name'])} and {name} both have the {key} "
                f"{short(row[key])}; each frame of a video needs its own."
            )
        times[time] = row
    rows[:] = [times[time] for time in sorted(times)]


def _number(value: Any) -> float | None:
    """A finite number, or text that spells one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


#: (video, track, category) -> frame -> mask.
Tracks = dict[tuple[Any, Any, int], dict[int, Any]]


def _tracks(
    rows: Sequence[Any], place: Mapping[Any, tuple[Any, int]], path: Path
) -> tuple[Tracks, list[str]]:
    """Tracks in the order of the file, and what was left out."""
    tracks: Tracks = {}
    crowds = boxes = 0
    for k, row in enumerate(rows):
        where = f"{path}: annotations[{k}]"
        if not isinstance(row, dict):
            raise AnnotationError(f"{where} is {short(row)}; give an object.")
        if row.get("iscrowd"):
            crowds += 1
            continue
        track = _track_of(row, where, place)
        if rle.is_absent(row.get("segmentation")):
            boxes += 1
            continue
        video, t = place[row["image_id"]]
        masks = tracks.setdefault((video, track, int(row["category_id"])), {})
        if t in masks:
            raise AnnotationError(
                f"{where}: track {track!r} has two masks in one image; unite them, as two polygons "
                "of one row, or give each object its own track_id."
            )
        masks[t] = row["segmentation"]
    if rows and crowds == len(rows):
        raise AnnotationError(
            f"{path}: all {crowds} annotations are marked as crowd (iscrowd 1), and a crowd is no "
            "object; some tools mark every mask that is stored as run lengths so: set iscrowd to 0 "
            "where a mask is one object."
        )
    if not tracks:
        raise AnnotationError(
            f"{path}: no annotation has a mask ({crowds} crowd regions, {boxes} with a box only); "
            "export segmentation, too."
        )
    notes = [f"{crowds} crowd regions (iscrowd) are left out."] if crowds else []
    notes += [f"{boxes} annotations without a mask (a box only) are left out."] if boxes else []
    return tracks, notes


def _track_of(row: Row, where: str, place: Mapping[Any, Any]) -> Any:
    """The track of an annotation, whose image and class are checked."""
    if row.get("image_id") not in place:
        raise AnnotationError(f"{where}.image_id is {short(row.get('image_id'))}; no such image.")
    if not is_int(row.get("category_id")):
        raise AnnotationError(f"{where}.category_id is {short(row.get('category_id'))}.")
    track = next((row[key] for key in _TRACK_KEYS if row.get(key) is not None), None)
    if track is None:
        raise AnnotationError(
            f"{where} has no {_TRACK_KEYS[0]!r}; it tells which annotations are one object "
            f"through time ({' or '.join(_TRACK_KEYS[1:])} is read as well)."
        )
    return track


def _check_classes(tracks: Tracks, classes: Mapping[int, str], path: Path) -> list[str]:
    """What to say about tracks of several classes.

    Raises:
        AnnotationError: a track changes its class.
    """
    by_track: dict[tuple[Any, Any], list[int]] = {}
    for video, track, category in tracks:
        by_track.setdefault((video, track), []).append(category)
    several = {key: found for key, found in by_track.items() if len(found) > 1}
    if not several:
        return []
    for (video, track), found in several.items():
        places = [set(tracks[video, track, category]) for category in found]
        if sum(map(len, places)) > len(set.union(*places)):  # one image shows two: two objects
            return [
                f"tracks are counted class by class ({list_few([repr(t) for _, t in several], 3)} "
                "stand for an object of each class)."
            ]
    (video, track), found = next(iter(several.items()))
    spans = [
        f"{classes.get(category, category)} in {len(tracks[video, track, category])} frames"
        for category in found
    ]
    raise AnnotationError(
        f"{path}: track {track!r} of video {video!r} is {' and '.join(spans)} ({len(several)} such "
        "tracks); an object has one class: correct category_id, or give each object its own "
        "track_id."
    )


# --- MOTSChallenge text -------------------------------------------------------------------------


def load_mots_txt(path: Path, image_root: Path) -> Source:
    """MOTSChallenge and KITTI MOTS text: ``frame id class height width rle`` per line.

    Args:
        path: folder of ``<video>.txt``, or one such file.
        image_root: holds ``<video>/<number>.jpg`` or .png; frame numbers are those of the files.

    Raises:
        AnnotationError: a line breaks the format, or its frame does not exist.
        VideoError: a folder of frames is missing or empty.
    """
    files = list_files(path, (".txt",)) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise AnnotationError(f"{path}: no .txt file with one line per frame and object.")
    records = []
    ignored = 0
    for number, file in enumerate(files, start=1):
        folder = image_root / file.stem
        frames = list(list_frames(folder).values())
        index = {int(p.stem): t for t, p in enumerate(frames) if p.stem.isdecimal()}
        tracks: dict[tuple[int, int], dict[int, rle.Rle]] = {}
        for k, line in enumerate(_lines(file), start=1):
            ignored += not _read_line(line, f"{file}:{k}", index, tracks)
        size = next((m["size"] for masks in tracks.values() for m in masks.values()), None)
        height, width = size or read_frame(frames[0]).shape[:2]
        tracklets = tuple(
            Tracklet(track, category, tuple(masks.get(t) for t in range(len(frames))), str(file))
            for (track, category), masks in sorted(tracks.items())
        )
        records.append(
            VideoRecord(
                id=number,
                name=file.stem,
                image_root=image_root,
                file_names=tuple(f"{file.stem}/{p.name}" for p in frames),
                height=int(height),
                width=int(width),
                annotations=MemoryAnnotations(tracklets),
                dataset=path.name,
            )
        )
    notes = [f"{ignored} regions to ignore (class {MOTS_IGNORE}) are left out."] if ignored else []
    return Source(VideoList(path.name, MOTS_CLASSES, records), notes)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{file}: cannot be read ({error}).") from None


def _read_line(
    line: str,
    where: str,
    index: Mapping[int, int],
    tracks: dict[tuple[int, int], dict[int, rle.Rle]],
) -> bool:
    """Add the mask of a line to its track; False for a region to ignore."""
    words = line.split()
    if not words:
        return True
    try:
        frame, track, category, height, width = (int(word) for word in words[:5])
        (counts,) = words[5:]
    except ValueError:
        raise AnnotationError(
            f"{where}: {short(line)} is not 'frame id class height width rle'."
        ) from None
    if category == MOTS_IGNORE:
        return False
    if category not in MOTS_CLASSES:
        raise AnnotationError(f"{where}: class {category} is neither 1 (car) nor 2 (pedestrian).")
    if frame not in index:
        raise AnnotationError(f"{where}: there is no image with the number {frame}.")
    with scoring_errors():
        mask = rle.validate({"size": [height, width], "counts": counts}, where)
    tracks.setdefault((track, category), {})[index[frame]] = mask
    return True
