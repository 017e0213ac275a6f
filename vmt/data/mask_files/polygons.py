"""Polygons of one frame in a JSON file, as labelme writes them.

``{"shapes": [{"label": "dog", "points": [[x, y], ...]}]}``, points in pixels of the frame. Shapes
that share a label and a ``group_id`` are one object; of shapes without a group, the k-th of a label
is the same object in every frame. Where such an object is written in pieces, they get a group, and
say in ``vmt_object`` which object they are. Shapes of other kinds than polygons are left alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq import rle
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.json_file import read_json
from cocoapi_hq.ytvis_json import is_int, short
from vmt.data.mask_files.base import BoolArray, Size, checked_mask, size_text
from vmt.data.mask_files.folders import NewMask
from vmt.data.mask_files.rings import rings_of
from vmt.utils.errors import AnnotationError

Json = Any
#: Field of shapes that are pieces of an object without a group: its key.
PIECE_OF = "vmt_object"


def has_shapes(path: Path) -> bool:
    """Whether a JSON file holds polygons of a frame.

    Raises:
        AnnotationError: it cannot be read.
    """
    content = _read(path)
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def make_polygon_codec(files: Sequence[Path], size: Size) -> PolygonCodec:
    """See ``folders.MakeCodec``."""
    del size
    others = sum(not _is_polygon(shape) for path in files for shape in _shapes(path)[1])
    return PolygonCodec(f"{others} shapes that are no polygons are left alone." if others else "")


@dataclass(frozen=True)
class PolygonCodec:
    """Reads and writes polygons; see ``folders.FrameCodec``."""

    note: str = ""
    noun: str = "polygon file"

    def objects(self, path: Path, size: Size) -> list[str]:
        """See ``folders.FrameCodec``."""
        content, shapes = _shapes(path)
        drawn_on: list[Any] = [content.get(key) for key in ("imageHeight", "imageWidth")]
        if all(is_int(side) for side in drawn_on) and tuple(drawn_on) != size:
            raise AnnotationError(
                f"{path}: its polygons were drawn on {size_text(drawn_on)} pixels, but the frame "
                f"is {size_text(size)}; give the frames that they were drawn on."
            )
        found = _objects(path, shapes)
        keys = []
        for key, rows in found.items():
            if rle.area(_mask(path, shapes, rows, size)):
                keys.append(key)
            elif all(_outside(shapes[k]["points"], size) for k in rows):
                raise AnnotationError(
                    f"{path}: shapes[{rows[0]}] ({key}) lies outside the frame of "
                    f"{size_text(size)} pixels; was it drawn on another size?"
                )
        return keys

    def label(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        return key

    def masks(self, path: Path, keys: Sequence[str], size: Size) -> list[BoolArray]:
        """See ``folders.FrameCodec``."""
        _, shapes = _shapes(path)
        rows = _objects(path, shapes)
        return [rle.decode(_mask(path, shapes, rows[key], size)) for key in keys]

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """See ``folders.FrameCodec``.

        An object in several pieces becomes several shapes of one group; holes are joined to the
        ring around them.
        """
        content, shapes = _shapes(path)
        groups = [s["group_id"] for s in shapes if is_int(s.get("group_id"))]
        fresh = max(groups, default=0) + 1
        pieces: dict[int, list[Json]] = {k: [shape] for k, shape in enumerate(shapes)}
        for key, rows in _objects(path, shapes).items():
            mask = new[key].mask if key in new else None
            if mask is None:
                continue
            rings = rings_of(mask)
            group = {}
            if len(rings) > 1 and shapes[rows[0]].get("group_id") is None:
                group, fresh = {"group_id": fresh, PIECE_OF: key}, fresh + 1
            pieces.update({k: [] for k in rows})
            pieces[rows[0]] = [shapes[rows[0]] | {"points": ring} | group for ring in rings]
        content["shapes"] = [shape for k in sorted(pieces) for shape in pieces[k]]
        return json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"


def _read(path: Path) -> Json:
    try:
        return read_json(path)
    except ScoringError as error:
        raise AnnotationError(str(error)) from None


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


def _is_polygon(shape: Mapping[str, Json]) -> bool:
    return shape.get("shape_type") in (None, "polygon")


def _objects(path: Path, shapes: Sequence[Mapping[str, Json]]) -> dict[str, list[int]]:
    """Key -> places of its shapes."""
    found: dict[str, list[int]] = {}
    alone: Counter[str] = Counter()
    for k, shape in enumerate(shapes):
        if not _is_polygon(shape):
            continue
        label, group = str(shape.get("label", "object")), shape.get("group_id")
        whole = shape.get(PIECE_OF)
        if isinstance(whole, str):
            key = whole
            alone[label] += key not in found
        elif group is not None:
            key = f"{label} (group {group})"
        else:
            alone[label] += 1
            key = label if alone[label] == 1 else f"{label} #{alone[label]}"
        points = shape["points"]
        pairs = all(isinstance(p, list) and len(p) == 2 for p in points)
        if len(points) < 3 or not pairs:
            raise AnnotationError(
                f"{path}: shapes[{k}] ({label}) has points {short(points)}; give at least three "
                "[x, y]."
            )
        found.setdefault(key, []).append(k)
    return found


def _mask(
    path: Path, shapes: Sequence[Mapping[str, Json]], rows: Sequence[int], size: Size
) -> rle.Rle:
    parts = []
    for k in rows:
        ring = [value for point in shapes[k]["points"] for value in point]
        parts.append(checked_mask([ring], f"{path}: shapes[{k}].points", size))
    return rle.union(parts)


def _outside(points: Sequence[Sequence[float]], size: Size) -> bool:
    x, y = [p[0] for p in points], [p[1] for p in points]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= size[1] or min(y) >= size[0]
