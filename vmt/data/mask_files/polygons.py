"""Polygons of one frame in a JSON file, as labelme writes them.

``{"shapes": [{"label": "dog", "points": [[x, y], ...]}]}``, points in pixels of the frame. Shapes
that share a label and a ``group_id`` are one object; of shapes without a group, the k-th of a label
is the same object in every frame. Where such an object is written in pieces, they get a group, and
say in ``vmt_object`` which object they are. A shape ``_background_`` is a hole in the objects that
it mostly lies in; ``__ignore__``, ``ignore`` and ``void`` are no objects. Masks that labelme stores
as pictures are read, too; other kinds of shapes are left alone.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.io.listing import list_files
from vmt.data.mask_files.base import (
    BoolArray,
    Change,
    OutsideError,
    Size,
    checked_mask,
    idle_note,
    idle_rings,
    join_notes,
    list_few,
    size_text,
)
from vmt.data.mask_files.folders import FrameCodec
from vmt.data.mask_files.rings import rings_of
from vmt.utils.errors import AnnotationError, scoring_errors

Json = Any
#: Field of shapes that are pieces of an object without a group: its key.
PIECE_OF = "vmt_object"
#: Labels of holes, and of regions that nobody annotated, in small letters.
HOLES = frozenset(("_background_", "__background__"))
IGNORED = frozenset(("__ignore__", "_ignore_", "ignore", "void"))
#: What a key has behind the label.
_OBJECT_OF_LABEL = re.compile(r" (?:#\d+|\(group .*\))$")
_GROUP_OF_KEY = re.compile(r" \(group (.*)\)$")


def polygon_files(folder: Path) -> tuple[Path, ...]:
    """The JSON files of a folder that hold polygons of a frame, in natural order.

    Raises:
        AnnotationError: one cannot be read.
    """
    return tuple(path for path in list_files(folder, (".json",)) if has_shapes(path))


def has_shapes(path: Path) -> bool:
    """Whether a JSON file holds polygons of a frame.

    Raises:
        AnnotationError: it cannot be read.
    """
    content = _read(path)
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


class PolygonCodec(FrameCodec):
    """Polygons of one frame."""

    noun = "polygon file"
    settings = ""

    def survey(self, files: Sequence[Path], size: Size) -> str:
        """Note about shapes that are no objects."""
        return note_of([read_polygons(path) for path in files], size)

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """Object -> (H, W), polygons filled; empty ones are left out."""
        masks = read_polygons(path).masks(size)
        return {key: rle.decode(mask) for key, mask in masks.items() if rle.area(mask)}

    def category(self, key: str) -> str:
        """The label without the number of the object."""
        return _OBJECT_OF_LABEL.sub("", key)

    def categories(self, files: Sequence[Path]) -> set[str]:
        """The classes in all files."""
        return {self.category(key) for path in files for key in read_polygons(path).objects}

    def rewrite(self, path: Path, changes: Mapping[str, Change]) -> bytes:
        """The file with other polygons.

        An object in several pieces becomes several shapes of one group; holes are joined to the
        ring around them, and shapes that were holes of it go.
        """
        frame = read_polygons(path)
        shapes = frame.shapes
        new = {key: change.mask for key, change in changes.items() if change.mask is not None}
        height, width = next(iter(new.values()))["size"]
        holes = frame.holes_in((height, width))
        # A hole that goes must be drawn into everything that it was a hole of.
        moved = new.keys() & frame.objects.keys()
        gone = {k for k, owners in holes.items() if moved & set(owners)}
        moved |= {key for k in gone for key in holes[k]}
        masks = frame.masks((height, width)) | new
        groups = [s["group_id"] for s in shapes if is_int(s.get("group_id"))]
        fresh = max(groups, default=0) + 1
        pieces: dict[int, list[Json]] = {k: [shape] for k, shape in enumerate(shapes)}
        pieces.update({k: [] for k in gone})
        for key, rows in frame.objects.items():
            if key not in moved:
                continue
            rings = rings_of(masks[key])
            group = {}
            if len(rings) > 1 and shapes[rows[0]].get("group_id") is None:
                group, fresh = {"group_id": fresh, PIECE_OF: key}, fresh + 1
            first = dict(shapes[rows[0]])
            if first.get("shape_type") == "mask":
                first |= {"shape_type": "polygon", "mask": None}
            pieces.update({k: [] for k in rows})
            pieces[rows[0]] = [first | {"points": ring} | group for ring in rings]
        more = {key: mask for key, mask in new.items() if key not in frame.objects}
        shapes = [shape for k in sorted(pieces) for shape in pieces[k]]
        return _spelled(frame.content | {"shapes": [*shapes, *self._drawn(more, fresh)]})

    def create(
        self, files: Sequence[Path], name: str, changes: Mapping[str, Change]
    ) -> Iterator[tuple[Path, bytes]]:
        """A polygon file with what the first one says of its picture."""
        like = files[0]
        content = read_polygons(like).content
        new = {key: change.mask for key, change in changes.items() if change.mask is not None}
        about: dict[str, Json] = {"shapes": self._drawn(new, 1), "imageData": None}
        picture = content.get("imagePath")
        if isinstance(picture, str):
            about["imagePath"] = picture.replace(like.stem, name)
        yield like.with_name(f"{name}{like.suffix}"), _spelled(content | about)

    def _drawn(self, masks: Mapping[str, rle.Rle], fresh: int) -> list[Json]:
        """Shapes of objects that a file has none of; groups are numbered from ``fresh`` on."""
        shapes: list[Json] = []
        for key, mask in masks.items():
            rings = rings_of(mask)
            own: dict[str, Json] = {"label": self.category(key), "group_id": None}
            group = _GROUP_OF_KEY.search(key)
            if group is not None and group[1].lstrip("-").isdecimal():
                own["group_id"] = int(group[1])
            elif len(rings) > 1 or key != own["label"]:
                own |= {"group_id": fresh, PIECE_OF: key}
                fresh += 1
            shape = {"shape_type": "polygon", "flags": {}}
            shapes += [own | {"points": ring} | shape for ring in rings]
        return shapes


# --- one file ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolygonFrame:
    """What one file draws.

    Args:
        path: of the file.
        content: all of it.
        shapes: its list.
        objects: key -> places of its shapes.
        labels: key -> label.
        holes: places of the holes.
        ignored: places of shapes that are no objects.
        others: places of shapes of other kinds.
        idle: rings that enclose nothing, for people.
    """

    path: Path
    content: dict[str, Json]
    shapes: list[dict[str, Json]]
    objects: dict[str, list[int]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    holes: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    def masks(self, size: Size) -> dict[str, rle.Rle]:
        """Key -> mask, holes cut.

        Raises:
            AnnotationError: a shape is damaged, lies outside, or was drawn on another size.
        """
        drawn_on: list[Any] = [self.content.get(key) for key in ("imageHeight", "imageWidth")]
        if all(is_int(side) for side in drawn_on) and tuple(drawn_on) != size:
            raise AnnotationError(
                f"{self.path}: its polygons were drawn on {size_text(drawn_on)} pixels, but the "
                f"frame is {size_text(size)}; give the frames that they were drawn on."
            )
        masks = {key: self._solid(rows, size) for key, rows in self.objects.items()}
        for k, owners in self._owners(masks, size).items():
            outside = rle.encode(~rle.decode(self._drawn(k, size)))
            masks.update({key: rle.intersection([masks[key], outside]) for key in owners})
        return masks

    def holes_in(self, size: Size) -> dict[int, list[str]]:
        """Place of each hole -> keys of the objects that hold more than half of it."""
        masks = {key: self._solid(rows, size) for key, rows in self.objects.items()}
        return self._owners(masks, size)

    def _owners(self, solid: Mapping[str, rle.Rle], size: Size) -> dict[int, list[str]]:
        owners = {}
        for k in self.holes:
            hole = self._drawn(k, size)
            common = {key: rle.area(rle.intersection([mask, hole])) for key, mask in solid.items()}
            owners[k] = [key for key, area in common.items() if 2 * area > rle.area(hole)]
        return owners

    def _solid(self, rows: Sequence[int], size: Size) -> rle.Rle:
        outside: list[AnnotationError] = []
        parts = []
        for k in rows:
            try:
                parts.append(self._drawn(k, size))
            except OutsideError as error:
                outside.append(error)
        if not parts:
            raise outside[0]
        return rle.union(parts)

    def _drawn(self, k: int, size: Size) -> rle.Rle:
        shape = self.shapes[k]
        where = f"{self.path}: shapes[{k}]"
        if shape.get("shape_type") == "mask":
            return _picture(shape, where, size)
        label = str(shape.get("label", "object"))
        ring = [value for point in shape["points"] for value in point]
        return checked_mask([ring], f"{where} ({label})", size)


def read_polygons(path: Path) -> PolygonFrame:
    """Read a file.

    Raises:
        AnnotationError: it cannot be read, or a shape breaks the format.
    """
    content, shapes = _shapes(path)
    frame = PolygonFrame(path, content, shapes)
    alone: Counter[str] = Counter()
    for k, shape in enumerate(shapes):
        if shape.get("shape_type") not in (None, "polygon", "mask"):
            frame.others.append(k)
            continue
        label, group = str(shape.get("label", "object")), shape.get("group_id")
        if label.strip().lower() in IGNORED:
            frame.ignored.append(k)
            continue
        where = f"{path.name}: shapes[{k}] ({label})"
        if shape.get("shape_type") != "mask":
            points = shape["points"]
            if not all(isinstance(p, list) and len(p) == 2 for p in points):
                raise AnnotationError(
                    f"{path}: shapes[{k}] ({label}) has points {short(points)}; give at least "
                    "three [x, y]."
                )
            ring = [value for point in points for value in point]
            if idle_rings([ring], where):
                frame.idle.append(where)
                continue
        if label.strip().lower() in HOLES:
            frame.holes.append(k)
            continue
        whole = shape.get(PIECE_OF)
        if isinstance(whole, str):
            key = whole
            alone[label] += key not in frame.objects
        elif group is not None:
            key = f"{label} (group {group})"
        else:
            alone[label] += 1
            key = label if alone[label] == 1 else f"{label} #{alone[label]}"
        frame.objects.setdefault(key, []).append(k)
        frame.labels[key] = label
    return frame


def note_of(frames: Sequence[PolygonFrame], size: Size) -> str:
    """What to say about shapes that are no objects; may be empty."""
    others = sum(len(frame.others) for frame in frames)
    ignored = [str(frame.shapes[k].get("label")) for frame in frames for k in frame.ignored]
    astray = [
        f"{frame.path.name}: shapes[{k}]"
        for frame in frames
        if frame.holes
        for k, owners in frame.holes_in(size).items()
        if not owners
    ]
    notes = []
    if others:
        notes.append(f"{others} shapes that are no polygons are left alone.")
    if ignored:
        names = ", ".join(sorted(set(ignored)))
        notes.append(f"{len(ignored)} shapes labelled {names} are no objects and are left alone.")
    if astray:
        notes.append(f"{len(astray)} holes (_background_) lie in no object: {list_few(astray, 3)}.")
    return join_notes(*notes, idle_note([place for frame in frames for place in frame.idle]))


def _spelled(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"


def _picture(shape: Mapping[str, Json], where: str, size: Size) -> rle.Rle:
    """A mask that labelme stores as a PNG between two corners."""
    points = shape["points"]
    try:
        (left, top), _ = points
        raw = base64.b64decode(shape["mask"], validate=True)
        with Image.open(io.BytesIO(raw)) as image:
            bits = np.array(image.convert("L")) > 0
        x, y = round(left), round(top)
    except (binascii.Error, KeyError, OSError, TypeError, ValueError):
        raise AnnotationError(
            f"{where} is a mask, but its two points and its picture (base64) cannot be read; draw "
            "it again."
        ) from None
    whole = np.zeros(size, dtype=np.bool_)
    part = bits[max(-y, 0) :, max(-x, 0) :]
    target = whole[max(y, 0) :, max(x, 0) :]
    h, w = min(part.shape[0], target.shape[0]), min(part.shape[1], target.shape[1])
    target[:h, :w] = part[:h, :w]
    return rle.encode(whole)


def _read(path: Path) -> Json:
    with scoring_errors():
        return read_json(path)


def _shapes(path: Path) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    content = _read(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise AnnotationError(
            f"{path}: has no list 'shapes'; give polygons as labelme writes them, "
            '{"shapes": [{"label": "dog", "points": [[x, y], ...]}]}.'
        )
    for k, shape in enumerate(shapes):
        if not isinstance(shape, dict) or not isinstance(shape.get("points"), list):
            raise AnnotationError(
                f"{path}: shapes[{k}] is {short(shape)}; give an object with label and points."
            )
    return content, shapes
