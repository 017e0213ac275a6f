"""Read and write the frames of Scalabel JSON: run lengths and polygons, as BDD100K MOTS uses them.

Source of the format: Scalabel 071d073.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_finite, short
from cocoapi_hq.io.json_file import read_json, write_text
from cocoapi_hq.io.listing import list_files
from cocoapi_hq.io.run_check import find_corrupt_counts
from cocoapi_hq.mots.frame_masks import FloatArray, FrameMasks, resolve_overlaps
from cocoapi_hq.mots.mots_config import BDD100K_MOTS, JsonSource, MotsConfig, fail

logger = logging.getLogger(__name__)


_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")  # below 2^63
_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_CURVE_STEPS = 16
_FLAGS = ("crowd", "ignored")


def load_frames(
    source: JsonSource,
    config: MotsConfig,
    *,
    is_gt: bool,
    need_tracks: bool = True,
    need_scores: bool = False,
) -> list[FrameMasks]:
    """Read and check every frame of a Scalabel file, object, list or folder of files.

    Labels without a mask are skipped before their class is looked at. Masks are checked, so that
    what comes back is safe for compiled code: every run-length text fills exactly its size.

    Args:
        source: path of a JSON file, or of a folder whose ``*.json`` files are joined in the order
            of their names; or the content: a list of frames or ``{"frames": [...]}``.
        config: see ``load_config``.
        is_gt: ground truth may hold polygons and ids of any text; results may not.
        need_tracks: read ``videoName``, ``frameIndex`` and ``id``, which must then be there.
        need_scores: every label with a mask must have a score.

    Returns:
        The frames in the order of the file.

    Raises:
        ScoringError: any defect, named by file, JSON path, value and fix.
    """
    reader = _Reader(config, is_gt=is_gt, need_tracks=need_tracks, need_scores=need_scores)
    for where, chunk in _frame_lists(source, "ground truth" if is_gt else "results"):
        reader.read(where, chunk)
    return reader.finish()


def frames_to_scalabel(frames: Iterable[FrameMasks], config: MotsConfig) -> list[dict[str, Any]]:
    """Frames as the JSON content that ``load_frames`` and the BDD100K toolkit read."""
    content: list[dict[str, Any]] = []
    for frame in frames:
        labels: list[dict[str, Any]] = []
        for i, mask in enumerate(frame.rles):
            label: dict[str, Any] = {
                "id": str(frame.track_ids[i]),
                "category": config.classes[frame.labels[i]],
                "rle": {"size": list(mask["size"]), "counts": mask["counts"]},
            }
            if frame.ignored[i]:
                label["attributes"] = {"ignored": True}
            if not math.isnan(frame.scores[i]):
                label["score"] = frame.scores[i]
            labels.append(label)
        content.append(
            {
                "videoName": frame.video,
                "name": frame.name,
                "frameIndex": frame.index,
                "labels": labels,
            }
        )
    return content


def write_results(
    path: str | os.PathLike[str],
    frames: Iterable[FrameMasks],
    config: MotsConfig = BDD100K_MOTS,
    *,
    without_overlaps: bool = True,
) -> None:
    """Write a result file; it appears complete or not at all.

    Args:
        path: the JSON file to write.
        frames: predictions, one entry per frame of every video, empty frames included.
        config: names of the classes.
        without_overlaps: let ``resolve_overlaps`` repair frames first; the BDD100K rules drop
            every prediction of a frame in which two masks share a pixel.
    """
    target = Path(path)
    ready = [resolve_overlaps(frame) if without_overlaps else frame for frame in frames]
    content = frames_to_scalabel(ready, config)
    write_text(target, json.dumps(content, separators=(",", ":")))


def polygons_to_rle(polygons: Sequence[Any], image_size: tuple[int, int], where: str) -> rle.Rle:
    """Draw Scalabel polygons, Bezier parts included, and unite them.

    A vertex of type ``L`` ends a straight line; three of type ``C`` are the two control points and
    the end of a cubic curve that starts at the vertex before. The outline closes with a line.
    Pixels follow COCO's rule. The original draws with a plotting library, so its outlines may
    differ from these by a pixel.

    Args:
        polygons: ``{"vertices": [[x, y], ...], "types": "LLCCC..."}``, in pixels.
        image_size: (h, w) in pixels.
        where: file and JSON path, for messages.

    Raises:
        ScoringError: a polygon of the wrong shape.
    """
    rings = [
        _outline(polygon, f"{where}.poly2d[{i}]").ravel().tolist()
        for i, polygon in enumerate(polygons)
    ]
    return rle.from_polygons(rings, *image_size, where=f"{where}.poly2d")


class _Reader:
    """Collects checked frames; run lengths and ids are checked together at the end."""

    def __init__(
        self, config: MotsConfig, *, is_gt: bool, need_tracks: bool, need_scores: bool
    ) -> None:
        self.config = config
        self.is_gt = is_gt
        self.need_tracks = need_tracks
        self.need_scores = need_scores
        self.frames: list[FrameMasks] = []
        self.raw_ids: list[list[str | int]] = []  # parallel to frames
        self.positions: list[list[int]] = []  # of the labels in the file, parallel to frames
        self.resolved: dict[str, tuple[int, bool] | None] = {}
        self.sizes: list[list[int]] = []  # that were found sound, a few

    def read(self, where: str, chunk: Sequence[Any]) -> None:
        """Add the frames of one file; ``where`` ends in what stands before ``[index]``."""
        for i, entry in enumerate(chunk):
            self._read_frame(f"{where}[{i}]", entry)

    def finish(self) -> list[FrameMasks]:
        """Check run lengths and turn ids into integers."""
        self._check_counts()
        if self.need_tracks:
            if self.is_gt:
                self._number_gt_ids()
            else:
                self._parse_result_ids()
            self._check_repeated_ids()
        return self.frames

    def _read_frame(self, where: str, entry: Any) -> None:
        if not isinstance(entry, Mapping):
            fail(where, entry, "give a frame object with videoName, name, frameIndex, labels")
        name, video, index = entry.get("name"), entry.get("videoName"), entry.get("frameIndex")
        if not self.need_tracks:
            video = "" if video is None else video
            index = len(self.frames) if index is None else index
        if not isinstance(name, str):
            fail(f"{where}.name", name, "give the name of the frame as text")
        if not isinstance(video, str):
            fail(f"{where}.videoName", video, "give the name of the video as text")
        if not isinstance(index, int) or isinstance(index, bool):
            fail(f"{where}.frameIndex", index, "give the place in the video as an integer")
        frame = FrameMasks(video, name, index, where=where)
        self.frames.append(frame)
        self.raw_ids.append([])
        self.positions.append([])
        self._read_labels(frame, entry.get("labels"))

    def _read_labels(self, frame: FrameMasks, labels: Any) -> None:
        where = frame.where
        if labels is None:
            return
        if not isinstance(labels, list):
            fail(f"{where}.labels", labels, "give a list of labels, or null")
        for j, label in enumerate(labels):
            if not isinstance(label, Mapping):
                fail(f"{where}.labels[{j}]", label, "give a label object")
            if not self._take_common_label(frame, j, label):
                self._read_label(frame, j, label)

    def _take_common_label(self, frame: FrameMasks, j: int, label: Mapping[str, Any]) -> bool:
        """Take a label in its usual spelling, three times as fast as the careful way.

        Returns False, having done nothing, for whatever is new or odd; ``_read_label`` then reads
        or refuses it.
        """
        mask, flags = label.get("rle"), label.get("attributes")
        if type(mask) is not dict:
            return False
        if flags is not None and not _plainly_unflagged(flags):
            return False
        size, counts, name = mask.get("size"), mask.get("counts"), label.get("category")
        if type(counts) is not str or type(name) is not str or not counts.isascii():
            return False
        found = self.resolved.get(name)
        if found is None or size not in self.sizes:
            return False
        if type(size[0]) is not int or type(size[1]) is not int:  # 720.0 and True equal a size
            return False
        score = label.get("score")
        if score is None and not self.need_scores:
            score = math.nan
        elif type(score) is not float or not abs(score) < math.inf:
            return False
        if self.need_tracks:
            identity = label.get("id")
            if type(identity) is not str:
                return False
            self.raw_ids[-1].append(identity)
        self.positions[-1].append(j)
        usual: rle.Rle = {"size": size, "counts": counts}
        frame.append(usual, found[0], ignored=found[1], score=score)
        return True

    def _read_label(self, frame: FrameMasks, j: int, label: Mapping[str, Any]) -> None:
        mask = self._mask_of(frame.where, j, label)
        if mask is None:
            return
        label_class, ignored = self._class_of(frame.where, j, label.get("category"))
        attributes = label.get("attributes")
        if attributes is not None:
            ignored = _flagged(attributes, f"{frame.where}.labels[{j}].attributes") or ignored
        if self.need_tracks:
            identity = label.get("id")
            if not isinstance(identity, (str, int)) or isinstance(identity, bool):
                fail(f"{frame.where}.labels[{j}].id", identity, "give the track id")
            self.raw_ids[-1].append(identity)
        self.positions[-1].append(j)
        if mask["size"] not in self.sizes:
            self.sizes = [mask["size"], *self.sizes[:3]]
        score = self._score_of(frame.where, j, label.get("score"))
        frame.append(mask, label_class, ignored=ignored, score=score)

    def _class_of(self, frame_where: str, j: int, name: Any) -> tuple[int, bool]:
        if not isinstance(name, str):
            fail(f"{frame_where}.labels[{j}].category", name, "give the class name as text")
        if name not in self.resolved:
            self.resolved[name] = self.config.resolve(name)
        found = self.resolved[name]
        if found is None:
            known = [*self.config.classes, *self.config.aliases, *self.config.distractors]
            fail(
                f"{frame_where}.labels[{j}].category",
                name,
                f"use one of {known}, or add the name to name_mapping or ignored_mapping of the "
                "configuration",
            )
        return found

    def _score_of(self, frame_where: str, j: int, score: Any) -> float:
        where = f"{frame_where}.labels[{j}].score"
        if score is None:
            if self.need_scores:
                fail(where, score, "give the label a score; AP ranks by it")
            return math.nan
        if not is_finite(score):
            fail(where, score, "give a finite number")
        return float(score)

    def _mask_of(self, frame_where: str, j: int, label: Mapping[str, Any]) -> rle.Rle | None:
        """The mask of a label, its counts not yet checked; None if it has no mask."""
        mask = label.get("rle")
        if not rle.is_absent(mask):
            return _rle_shape(mask, f"{frame_where}.labels[{j}].rle")
        polygons = label.get("poly2d")
        if not polygons:
            return None
        where = f"{frame_where}.labels[{j}]"
        if not self.is_gt:
            fail(
                f"{where}.poly2d",
                "polygons",
                "results need run lengths; encode the mask and store it under rle",
            )
        if not isinstance(polygons, list):
            fail(f"{where}.poly2d", polygons, "give a list of polygons")
        if self.config.image_size is None:
            fail(
                f"{where}.poly2d",
                "polygons",
                "drawing them needs imageSize in the configuration; add it",
            )
        return polygons_to_rle(polygons, self.config.image_size, where)

    def _check_counts(self) -> None:
        masks = [mask for frame in self.frames for mask in frame.rles]
        sizes = [mask["size"] for mask in masks]
        found = find_corrupt_counts(
            [mask["counts"] for mask in masks], [height * width for height, width in sizes]
        )
        if found is None:
            return
        bad, reason = found
        for frame, positions in zip(self.frames, self.positions, strict=True):
            if bad < len(positions):
                text = frame.rles[bad]["counts"]
                fail(
                    f"{frame.where}.labels[{positions[bad]}].rle.counts",
                    text if len(text) <= 40 else text[:40] + "...",
                    f"{reason} (size {frame.rles[bad]['size']}); encode the mask again with COCO's "
                    "run-length coding",
                )
            bad -= len(positions)

    def _number_gt_ids(self) -> None:
        """Digits are numbers; one id of another kind, and the video's ids are counted from 1."""
        videos: dict[str, set[str]] = {}
        for frame, ids in zip(self.frames, self.raw_ids, strict=True):
            videos.setdefault(frame.video, set()).update(str(identity) for identity in ids)
        tables: dict[str, dict[str, int]] = {}
        for video, names in videos.items():
            if all(_DIGITS.match(name) for name in names):
                tables[video] = {name: int(name) for name in names}
            else:
                tables[video] = {name: i for i, name in enumerate(sorted(names), start=1)}
        for frame, ids in zip(self.frames, self.raw_ids, strict=True):
            table = tables[frame.video]
            frame.track_ids = [table[str(identity)] for identity in ids]

    def _parse_result_ids(self) -> None:
        for frame, ids, positions in zip(self.frames, self.raw_ids, self.positions, strict=True):
            for k, identity in enumerate(ids):
                if not _INTEGER.match(str(identity)):
                    fail(
                        f"{frame.where}.labels[{positions[k]}].id",
                        identity,
                        "track ids of results are integers (up to 18 digits), also as text",
                    )
                frame.track_ids[k] = int(identity)

    def _check_repeated_ids(self) -> None:
        """Refuse a repeated GT id in a frame; a repeated predicted id only costs IDF1."""
        repeated = 0
        for frame, positions in zip(self.frames, self.positions, strict=True):
            keys = [
                (label, identity)
                for label, identity, ignored in zip(
                    frame.labels, frame.track_ids, frame.ignored, strict=True
                )
                if not ignored
            ]
            if len(set(keys)) == len(keys):
                continue
            if not self.is_gt:
                repeated += 1
                continue
            seen: set[tuple[int, int]] = set()
            for k, position in enumerate(positions):
                key = (frame.labels[k], frame.track_ids[k])
                if frame.ignored[k]:
                    continue
                if key in seen:
                    fail(
                        f"{frame.where}.labels[{position}].id",
                        key[1],
                        f"class {self.config.classes[key[0]]!r} has this id twice in frame "
                        f"{frame.name!r} of video {frame.video!r}; give every object its own id",
                    )
                seen.add(key)
        if repeated:
            logger.warning(
                "results: %d frames have two masks of one class with the same id; "
                "this lowers IDF1, give every object of a frame its own id",
                repeated,
            )


def _frame_lists(source: JsonSource, role: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield ("where", frames) per file; ``where`` is what stands before ``[index]``."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        files = [path]
        if path.is_dir():
            files = list_files(path, (".json",))
            if not files:
                raise ScoringError(
                    f"{path}: this folder holds no JSON file; give the {role} as a file, "
                    "or as a folder of *.json files."
                )
        for file in files:
            yield from _frames_of(read_json(file), str(file))
        return
    yield from _frames_of(source, role)


def _frames_of(content: Any, where: str) -> Iterator[tuple[str, Sequence[Any]]]:
    prefix = f"{where}: "
    if isinstance(content, Mapping):
        content = content.get("frames")
        prefix += "frames"
    if not isinstance(content, list):
        raise ScoringError(
            f"{prefix} is {short(content, 80)}; give a list of frames, or an object "
            '{"frames": [...]}.'
        )
    yield prefix, content


def _rle_shape(mask: Any, where: str) -> rle.Rle:
    """Check keys and types of a run-length object; the counts themselves come later."""
    if not isinstance(mask, Mapping):
        fail(where, mask, 'give {"size": [h, w], "counts": text}')
    size, counts = mask.get("size"), mask.get("counts")
    height, width = rle.check_size(size, where)
    if isinstance(counts, list):
        return rle.from_counts(counts, height, width, f"{where}.counts")
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str) or not counts.isascii():
        fail(f"{where}.counts", counts, "give COCO's run lengths as text or as a list")
    return {"size": [height, width], "counts": counts}


def _flagged(attributes: Any, where: str) -> bool:
    if not isinstance(attributes, Mapping):
        fail(where, attributes, 'give an object like {"crowd": true}, or leave it out')
    flagged = False
    for key in _FLAGS:
        value = attributes.get(key)
        if value is not None and not isinstance(value, (bool, int)):
            fail(f"{where}.{key}", value, "give true or false")
        flagged = flagged or bool(value)
    return flagged


def _plainly_unflagged(attributes: Any) -> bool:
    if type(attributes) is not dict:
        return False
    crowd, ignored = (attributes.get(key) for key in _FLAGS)
    return (crowd is None or crowd is False) and (ignored is None or ignored is False)


def _outline(polygon: Any, where: str) -> FloatArray:
    """Vertices of a closed outline (V, 2) as (x, y) in pixels, curves cut into short lines."""
    vertices = polygon.get("vertices") if isinstance(polygon, Mapping) else None
    types = polygon.get("types") if isinstance(polygon, Mapping) else None
    if not isinstance(vertices, list) or not isinstance(types, str):
        fail(where, polygon, 'give {"vertices": [[x, y], ...], "types": "LLL..."}')
    try:
        points = np.array(vertices, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        fail(f"{where}.vertices", vertices, "give finite [x, y] pairs")
    if len(types) != len(points) or len(points) < 3 or set(types) - {"L", "C"}:
        fail(f"{where}.types", types, "give one letter L or C for each of at least 3 vertices")
    path = [points[0]]
    i = 1
    while i < len(points):
        if types[i] == "L":
            path.append(points[i])
            i += 1
            continue
        if types[i : i + 3] != "CCC":
            fail(f"{where}.types", types, "curve points (C) come in threes")
        start, first, second, end = path[-1], *points[i : i + 3]
        for step in range(1, _CURVE_STEPS + 1):
            t = step / _CURVE_STEPS
            s = 1 - t
            path.append(s**3 * start + 3 * s * s * t * first + 3 * s * t * t * second + t**3 * end)
        i += 3
    return np.array(path)
