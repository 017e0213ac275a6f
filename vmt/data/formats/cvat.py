"""CVAT XML ("CVAT for video 1.1", "CVAT for images 1.1", plain or in its zip) to records."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import short
from vmt.data.formats.drawn import Drawings, DrawnVideo, Source, open_video, order_note, to_source
from vmt.data.mask_files.base import Size, size_text
from vmt.data.mask_files.polygons import IGNORED
from vmt.utils.errors import AnnotationError

SUFFIXES = frozenset((".xml", ".zip"))
Element = ElementTree.Element


def load_cvat(path: Path, images: Path) -> Source:
    """Read polygons and masks of a CVAT export.

    Of a video, a track is an object, and all frames of the task are annotated. Of images, those
    without any shape are not annotated; one object in pieces, or in several frames, is a label with
    a group, else the k-th shape of its label in every frame.

    Args:
        path: the XML, or the zip that holds it.
        images: folder of the frames; or of a folder that is called as the task or its video.

    Raises:
        AnnotationError: no CVAT file, a shape is damaged, or frames do not belong to it.
        VideoError: the folder of frames is missing or empty.
    """
    root = _parse(path)
    classes = [e.text.strip() for e in root.findall("meta//labels/label/name") if e.text]
    drawings = Drawings()
    if root.findall("track"):
        if root.findall("image"):
            raise AnnotationError(f"{path}: holds both tracks and images; export one task alone.")
        videos, notes = [_read_tracks(path, root, images, drawings)], []
        single = sum(len(frames) == 1 for frames in videos[0].masks.values())
        if single > len(videos[0].masks) / 2 and len(videos[0].annotated) > 1:
            notes.append(
                f"{single} of {len(videos[0].masks)} objects are there in one frame only; in CVAT, "
                "draw tracks rather than shapes for objects that last."
            )
    else:
        videos = _read_images(path, root, images, drawings)
        notes = order_note(videos, "group the shapes of one object in CVAT where that is wrong")
    used = {label for video in videos for label in video.labels.values()}
    left_out = {*IGNORED, "background"}
    classes = [name for name in classes if name in used or name.lower() not in left_out]
    return to_source(path, images, videos, classes=classes, notes=[*drawings.notes(), *notes])


def _parse(path: Path) -> Element:
    try:
        if path.suffix.lower() != ".zip":
            root = ElementTree.parse(path).getroot()
        else:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.lower().endswith(".xml")]
                names = [n for n in names if "__MACOSX" not in n]
                if len(names) != 1:
                    raise AnnotationError(
                        f"{path}: holds {len(names)} XML files; give an export of CVAT as "
                        '"CVAT for video 1.1" or "CVAT for images 1.1", which has one.'
                    )
                root = ElementTree.fromstring(archive.read(names[0]))
    except (ElementTree.ParseError, zipfile.BadZipFile, OSError) as error:
        raise AnnotationError(f"{path}: cannot be read as CVAT XML ({error}).") from None
    if root.tag != "annotations":
        raise AnnotationError(
            f"{path}: is XML of <{root.tag}>, not CVAT's <annotations>; export the task as "
            '"CVAT for video 1.1" or "CVAT for images 1.1".'
        )
    return root


# --- video ---------------------------------------------------------------------------------------


def _read_tracks(path: Path, root: Element, images: Path, drawings: Drawings) -> DrawnVideo:
    source = Path(root.findtext("meta//source") or "").stem
    name = root.findtext("meta//task/name") or source or path.stem
    folder, video = open_video(images, [name, source, path.stem])
    size, count = video.size, len(video.files)
    drawn_on = [root.findtext(f"meta//original_size/{side}") for side in ("height", "width")]
    if None not in drawn_on and drawn_on != [str(side) for side in size]:
        raise AnnotationError(
            f"{path}: was drawn on {drawn_on[1]}x{drawn_on[0]} pixels, but the frames of {folder} "
            f"are {size_text(size)}; give the frames that it was drawn on."
        )
    index = _frame_index(path, root, folder, count)
    video.annotated.update(index.values())
    for track in root.findall("track"):
        label, number = track.get("label", "object").strip(), track.get("id", "")
        key = f"{label} {number}"
        where = f"{path}: track {number} ({label})"
        shapes = [shape for shape in track if shape.get("outside") != "1"]
        if not shapes or not drawings.is_object(label):
            continue
        for shape in shapes:
            frame = shape.get("frame", "")
            if not frame.isdecimal() or int(frame) not in index:
                raise AnnotationError(
                    f"{where}: is in frame {short(frame)}, but {folder} has {count} frames; "
                    "give the frames of this task."
                )
            mask = _mask(shape, f"{where}, frame {frame}", size, drawings)
            if mask is not None:
                video.add(key, label, index[int(frame)], mask)
    return video


def _frame_index(path: Path, root: Element, folder: Path, count: int) -> Mapping[int, int]:
    """Number of a frame in the file -> place in the folder.

    CVAT counts the frames of the video; a task may begin later or take every n-th.
    """
    words = {key: root.findtext(f"meta//{key}") or "" for key in ("start_frame", "stop_frame")}
    step = re.search(r"step=(\d+)", root.findtext("meta//frame_filter") or "")
    every = max(int(step[1]), 1) if step else 1
    first = int(words["start_frame"]) if words["start_frame"].isdecimal() else 0
    last = int(words["stop_frame"]) if words["stop_frame"].isdecimal() else count - 1
    taken = range(first, last + 1, every)
    if len(taken) == count:
        return {number: t for t, number in enumerate(taken)}
    if last < count:
        return {number: number for number in taken}
    raise AnnotationError(
        f"{path}: is of {len(taken)} frames ({first} to {last}), but {folder} has {count}; give "
        "all frames of the task, or of its video."
    )


# --- images --------------------------------------------------------------------------------------


def _read_images(path: Path, root: Element, images: Path, drawings: Drawings) -> list[DrawnVideo]:
    rows: dict[str, list[Element]] = {}
    for row in root.findall("image"):
        rows.setdefault(Path(row.get("name", "")).parent.as_posix(), []).append(row)
    if not rows:
        raise AnnotationError(f"{path}: holds neither tracks nor images.")
    videos = []
    for place, chosen in rows.items():
        name = path.stem if place == "." else place
        folder, video = open_video(images, [name, Path(place).name])
        index = {path.stem: t for t, path in enumerate(video.files)}
        for row in chosen:
            _read_image(path, row, folder, index, video, drawings)
        videos.append(video)
    return videos


def _read_image(
    path: Path,
    row: Element,
    folder: Path,
    index: Mapping[str, int],
    video: DrawnVideo,
    drawings: Drawings,
) -> None:
    name = row.get("name", "")
    t = index.get(Path(name).stem)
    if t is None:
        raise AnnotationError(
            f"{path}: image {name}: no frame of that name in {folder}; give the frames of the task."
        )
    size = (int(row.get("height", "0")), int(row.get("width", "0")))
    if size != video.size:
        raise AnnotationError(
            f"{path}: image {name} is {size_text(size)} pixels, but the frames of {folder} are "
            f"{size_text(video.size)}; give the frames that it was drawn on."
        )
    shapes = list(row)
    labels = [shape.get("label", "object").strip() for shape in shapes]
    chosen = []
    for k, (shape, label) in enumerate(zip(shapes, labels, strict=True)):
        if shape.tag == "tag" or not drawings.is_object(label):
            continue
        video.annotated.add(t)
        mask = _mask(shape, f"{path}: image {name}, shape {k} ({label})", size, drawings)
        if mask is not None:
            chosen.append((label, shape.get("group_id") or None, mask))
    video.add_by_order(t, chosen)


# --- shapes --------------------------------------------------------------------------------------


def _mask(shape: Element, where: str, size: Size, drawings: Drawings) -> rle.Rle | None:
    if shape.tag == "mask":
        return _picture(shape, where, size)
    if shape.tag != "polygon":
        drawings.other(shape.tag)
        return None
    words = re.split(r"[;,]", shape.get("points", ""))
    try:
        points = [float(word) for word in words]
    except ValueError:
        raise AnnotationError(
            f"{where}: has points {short(shape.get('points'))}; give x,y;x,y;..."
        ) from None
    return drawings.ring(points, where, size)


def _picture(shape: Element, where: str, size: Size) -> rle.Rle:
    """Run lengths of a rectangle, row by row, background first."""
    try:
        runs = [int(word) for word in shape.get("rle", "").split(",")]
        left, top, w, h = (
            round(float(shape.get(key, ""))) for key in ("left", "top", "width", "height")
        )
    except ValueError:
        runs, left, top, w, h = [], 0, 0, 0, 0
    if min(runs, default=-1) < 0 or min(w, h) < 1 or sum(runs) != w * h:
        raise AnnotationError(
            f"{where}: is a mask whose rle, left, top, width and height do not fit one another; "
            "export the task again."
        )
    if left < 0 or top < 0 or top + h > size[0] or left + w > size[1]:
        raise AnnotationError(f"{where}: lies outside the frame of {size_text(size)} pixels.")
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
    whole = np.zeros(size, dtype=np.bool_)
    whole[top : top + h, left : left + w] = bits
    return rle.encode(whole)
