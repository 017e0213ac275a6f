"""Polygons of the VGG Image Annotator (VIA 1 and 2, JSON) to records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cocoapi_hq.io.fields import short
from cocoapi_hq.io.json_file import read_json
from vmt.data.formats.drawn import Drawings, DrawnVideo, Source, open_video, order_note, to_source
from vmt.data.formats.foreign import via_images
from vmt.data.mask_files.base import list_few
from vmt.utils.errors import AnnotationError, scoring_errors

Json = Any

#: Attributes of a region that say what it is, and which object, the first that is there.
LABELS = ("label", "class", "category", "type", "name", "object")
IDENTITIES = ("track_id", "track", "object_id", "group_id", "id")


def load_via(path: Path, images: Path) -> Source:
    """Read polygons; images without any region are not annotated.

    Args:
        path: the project, or annotations exported as JSON.
        images: folder that the file names start from.

    Raises:
        AnnotationError: no VIA file, a region is damaged, or no attribute tells what it is.
        VideoError: a folder of frames is missing or empty.
    """
    with scoring_errors():
        rows = via_images(read_json(path))
    if rows is None:
        raise AnnotationError(f"{path}: is no project or annotation file of VIA 2.")
    by_folder: dict[str, list[Mapping[str, Json]]] = {}
    for row in rows.values():
        by_folder.setdefault(Path(str(row["filename"])).parent.as_posix(), []).append(row)
    drawings = Drawings()
    word = _label_attribute(path, [r for row in rows.values() for r in _regions(path, row)])
    videos = []
    for place, chosen in by_folder.items():
        _, video = open_video(images, [path.stem if place == "." else place])
        index = {frame.name: t for t, frame in enumerate(video.files)}
        for row in chosen:
            _read(path, row, word, index, video, drawings)
        videos.append(video)
    note = order_note(videos, f"give regions an attribute {IDENTITIES[0]} where that is wrong")
    return to_source(path, images, videos, notes=[*drawings.notes(), *note])


def _regions(path: Path, row: Mapping[str, Json]) -> list[dict[str, Json]]:
    regions = row["regions"]
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(regions, list) or not all(isinstance(r, dict) for r in regions):
        raise AnnotationError(f"{path}: {row['filename']}: regions are {short(regions)}.")
    return regions


def _attributes(region: Mapping[str, Json]) -> dict[str, Json]:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _label_attribute(path: Path, regions: Sequence[Mapping[str, Json]]) -> str | None:
    """Which attribute is the label; None where there is none: all are of the class object."""
    names = {name for region in regions for name in _attributes(region)}
    found = next((name for name in LABELS if name in names), None)
    rest = names - set(IDENTITIES)
    if found is None and len(rest) > 1:
        raise AnnotationError(
            f"{path}: regions have the attributes {list_few(sorted(rest))}, none of which is known "
            f"as the class; call it {LABELS[0]}."
        )
    return found or next(iter(rest), None)


def _word(value: Json) -> str:
    """Text of an attribute; of check boxes the one that is set."""
    if isinstance(value, dict):
        chosen = [name for name, is_set in value.items() if is_set]
        value = chosen[0] if len(chosen) == 1 else None
    return value.strip() if isinstance(value, str) else ""


def _read(
    path: Path,
    row: Mapping[str, Json],
    word: str | None,
    index: Mapping[str, int],
    video: DrawnVideo,
    drawings: Drawings,
) -> None:
    name = str(row["filename"])
    t = index.get(Path(name).name)
    if t is None:
        raise AnnotationError(
            f"{path}: {name}: no frame of that name; --images must be the folder that the file "
            "names start from."
        )
    shapes = []
    for k, region in enumerate(_regions(path, row)):
        video.annotated.add(t)
        attributes, shape = _attributes(region), region.get("shape_attributes") or {}
        where = f"{path}: {name}: regions[{k}]"
        label = "object" if word is None else _word(attributes.get(word))
        if word is not None and not label:
            its = short(attributes.get(word))
            raise AnnotationError(f"{where}: its {word} is {its}; say what it is, in one word.")
        where += f" ({label})"
        if not drawings.is_object(label):
            continue
        if shape.get("name") != "polygon":
            drawings.other(str(shape.get("name")))
            continue
        x, y = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
            raise AnnotationError(f"{where}: all_points_x and all_points_y do not fit together.")
        ring = [value for point in zip(x, y, strict=True) for value in point]
        mask = drawings.ring(ring, where, video.size)
        if mask is not None:
            group = next((attributes[i] for i in IDENTITIES if attributes.get(i)), None)
            shapes.append((label, group, mask))
    video.add_by_order(t, shapes)
