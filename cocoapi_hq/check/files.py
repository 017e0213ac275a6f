"""Every defect of an annotation or result file in one run: place, value, fix; and statistics.

Scoring stops at the first defect it meets; this looks at the whole file, names each one, and can
write a mended copy, which lacks the defects and nothing else. What cannot be read (a corrupt mask)
becomes null, what belongs to nothing (an entry without a video) is left out, what only a person can
decide is left as it is; each line says which.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoapi_hq.check.images import ImageOpener, check_images
from cocoapi_hq.check.masks import (
    Checker,
    Defect,
    Track,
    check_areas_and_boxes,
    check_masks,
    describe_tracks,
    find_doubles,
)
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.fields import is_finite, is_int
from cocoapi_hq.io.json_file import Json, parse_json, read_bytes, read_json
from cocoapi_hq.tubes.protocol import OCCLUSION_LEVELS


@dataclass
class Shape:
    """Sizes [h, w] and numbers of frames that the masks of one video have."""

    sizes: set[tuple[int, ...]] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        kind: ``ground truth`` or ``results``.
        defects: everything wrong, in the order of the file.
        statistics: name -> number or short text.
        mended: a copy of the file with every fix applied.
        notes: sentences about what may be wrong and only a person can tell.
    """

    kind: str
    defects: list[Defect] = field(default_factory=list)
    statistics: dict[str, float | int | str] = field(default_factory=dict)
    mended: Json = None
    notes: list[str] = field(default_factory=list)


def check_file(
    path: Path | str, *, images: ImageOpener | None = None, gt: Path | str | None = None
) -> CheckReport:
    """Check a file.

    Args:
        path: annotation file (an object) or result file (a list).
        images: decoder of the images that ``file_names`` list; None does not look at them.
        gt: annotation file that results are meant for; None checks results by themselves.

    Returns:
        Defects, statistics and a mended copy.

    Raises:
        ScoringError: the file cannot be read, is no JSON, or is neither kind of file.
    """
    path = Path(path)
    text = read_bytes(path)
    data = parse_json(text, path.name)
    report = None
    if isinstance(data, list):
        truth = None if gt is None else read_json(Path(gt), Path(gt).name)
        report = check_results(data, path.name, truth)
    elif isinstance(data, dict) and "annotations" in data:
        report = check_annotations(data, path.name, images)
    if report is not None:
        if b"NaN" in text or b"Infinity" in text:
            report.mended = _without_nan(report, path.name, "", report.mended)
        return report
    raise ScoringError(
        f"{path.name}: neither an annotation file (an object with annotations) nor a result file "
        "(a list of entries)."
    )


def _without_nan(report: CheckReport, name: str, where: str, value: Json) -> Json:
    """The value with null for the numbers that JSON does not have."""
    if isinstance(value, dict):
        inner = f"{where}." if where else ""
        return {k: _without_nan(report, name, f"{inner}{k}", v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(report, name, f"{where}[{k}]", v) for k, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        problem = "JSON has no such number"
        report.defects.append(Defect(name, where, str(value), problem, "null in the copy"))
        return None
    return value


# --- ground truth -----------------------------------------------------------------------------


def check_annotations(
    data: dict[str, Json], name: str = "ground truth", images: ImageOpener | None = None
) -> CheckReport:
    """Check a parsed annotation file; see :func:`check_file`."""
    checker = Checker(name, images=images)
    mended: dict[str, Json] = {k: copy.deepcopy(v) for k, v in data.items() if k != "annotations"}
    for key in ("videos", "categories", "annotations"):
        if not isinstance(data.get(key), list):
            empty = key == "annotations" and data.get(key, 0) is None
            problem = "there are no annotations to score against" if empty else "not a list"
            checker.add(key, data.get(key), problem, "give a list (the copy has an empty one)")
            mended[key] = []
    rows = _list(data, "annotations")
    videos = _check_videos(checker, mended["videos"], _mask_shapes(rows))
    mended["videos"] = [row for _, row in videos]
    opened = _check_images(checker, videos)
    mended["categories"] = _check_categories(checker, mended["categories"])
    mended["annotations"] = _check_tubes(checker, rows)
    mended["categories"] += checker.new_categories
    find_doubles(checker)
    statistics = {
        "videos": len(mended["videos"]),
        **opened,
        "categories": len(mended["categories"]),
        "annotations": len(mended["annotations"]),
        **describe_tracks(checker, len(mended["videos"])),
    }
    return CheckReport("ground truth", checker.defects, statistics, mended, checker.notes)


def _mask_shapes(rows: list[Json]) -> dict[int, Shape]:
    """Video id -> sizes and numbers of frames that its masks have."""
    shapes: dict[int, Shape] = {}
    for row in rows:
        masks = row.get("segmentations") if isinstance(row, dict) else None
        video = as_integer(row.get("video_id")) if isinstance(row, dict) else None
        if not isinstance(masks, list) or video is None:
            continue
        shape = shapes.setdefault(video, Shape())
        shape.lengths.add(len(masks))
        sizes = (mask.get("size") for mask in masks if isinstance(mask, dict))
        shape.sizes |= {tuple(s) for s in sizes if isinstance(s, list) and all(map(is_int, s))}
    return shapes


def _objects(
    checker: Checker, rows: list[Json], path: str
) -> Iterable[tuple[str, dict[str, Json]]]:
    for i, row in enumerate(rows):
        where = f"{path}[{i}]"
        if isinstance(row, dict):
            yield where, row
        else:
            checker.add(where, row, "not an object", "left out of the copy")


def _check_videos(
    checker: Checker, rows: list[Json], shapes: Mapping[int, Shape]
) -> list[tuple[str, dict[str, Json]]]:
    """Place and row of each video that the copy keeps."""
    kept = []
    for where, row in _objects(checker, rows, "videos"):
        _mend_integer(checker, where, row, "id")
        key = row.get("id")
        if not is_int(key):
            checker.add(f"{where}.id", key, "not an integer", "left out of the copy")
            continue
        if key in checker.videos:
            checker.add(f"{where}.id", key, "a second video of this id", "left out of the copy")
            continue
        shape = shapes.get(int(key), Shape())
        _check_size(checker, where, row, shape)
        _check_file_names(checker, where, row, shape)
        checker.videos[int(key)] = row
        kept.append((where, row))
    return kept


def _check_size(checker: Checker, where: str, row: dict[str, Json], shape: Shape) -> None:
    """Height and width; masks that agree on another size are believed, images more than they."""
    size = [row.get("height"), row.get("width")]
    drawn = list(next(iter(shape.sizes))) if len(shape.sizes) == 1 else None
    bad = [k for k, value in enumerate(size) if not is_int(value) or value < 1]
    for k in bad:
        fix = "set it" if drawn is None else f"set to {drawn[k]}, as its masks have it"
        side = ("height", "width")[k]
        checker.add(f"{where}.{side}", size[k], "not a positive integer", fix)
        row[side] = None if drawn is None else drawn[k]
    if drawn is not None and not bad and size != drawn and checker.images is None:
        fix = f"set to {drawn}; compare with --images"
        checker.add(f"{where}.height, width", size, f"all of its masks are {drawn}", fix)
        row["height"], row["width"] = drawn


def _check_file_names(checker: Checker, where: str, row: dict[str, Json], shape: Shape) -> None:
    names, length = row.get("file_names"), row.get("length")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        checker.add(f"{where}.file_names", names, "not a list of paths", "list one per frame")
        row["file_names"] = names = []
    repeated = [n for n, times in Counter(names).items() if times > 1]
    if repeated:
        checker.add(f"{where}.file_names", repeated[0], "listed more than once", "list it once")
    if not is_int(length) or length < 1:
        drawn = next(iter(shape.lengths)) if len(shape.lengths) == 1 else None
        row["length"] = len(names) or drawn
        fix = "set it" if row["length"] is None else f"set to {row['length']}"
        checker.add(f"{where}.length", length, "not a positive integer", fix)
    elif names and length != len(names):
        problem = f"there are {len(names)} file_names"
        checker.add(f"{where}.length", length, problem, "set to the file count")
        row["length"] = len(names)


def _check_images(checker: Checker, rows: list[tuple[str, dict[str, Json]]]) -> dict[str, Json]:
    if checker.images is None:
        return {}
    videos = []
    for _, row in rows:
        size = None if None in (row["height"], row["width"]) else (row["height"], row["width"])
        videos.append((row["file_names"], size))
    checked = check_images(videos, checker.images)
    for (where, _), findings in zip(rows, checked.findings, strict=True):
        for frame, value, problem, fix in findings:
            place = "" if frame is None else f"[{frame}]"
            checker.add(f"{where}.file_names{place}", value, problem, fix)
    if checked.doubtful:
        numbers = ", ".join(map(str, sorted(checked.orientations)))
        checker.notes.append(
            f"{checker.file}: {len(checked.doubtful)} images (first: {checked.doubtful[0]}) are "
            f"turned or mirrored by EXIF (orientation {numbers}), which their sizes do not show: "
            "make sure that the masks were drawn on the upright images."
        )
    return {"images decoded": f"{checked.decoded} of {checked.listed}"}


def _check_categories(checker: Checker, rows: list[Json]) -> list[dict[str, Json]]:
    kept, seen, names = [], set(), set()
    for where, row in _objects(checker, rows, "categories"):
        _mend_integer(checker, where, row, "id")
        key, name = row.get("id"), row.get("name")
        if not is_int(key):
            checker.add(f"{where}.id", key, "not an integer", "left out of the copy")
            continue
        if key in seen:
            checker.add(f"{where}.id", key, "a second category of this id", "left out of the copy")
            continue
        if not isinstance(name, str) or not name:
            checker.add(f"{where}.name", name, "not a name", "set to the id")
            row["name"] = name = str(key)
        if name in names:
            checker.add(f"{where}.name", name, "a second category of this name", "rename one")
        seen.add(int(key))
        names.add(name)
        kept.append(row)
    checker.categories = seen
    return kept


def _check_tubes(checker: Checker, rows: list[Json]) -> list[dict[str, Json]]:
    kept: list[dict[str, Json]] = []
    used: set[int] = set()
    wanted = {int(r["id"]) for r in rows if isinstance(r, dict) and is_int(r.get("id"))}
    fresh = itertools.count(max([0, *wanted]) + 1)
    for where, original in _objects(checker, rows, "annotations"):
        row = dict(original)
        if not _check_references(checker, where, row, truth=True):
            continue
        _mend_integer(checker, where, row, "id")
        _mend_integer(checker, where, row, "iscrowd")
        key = row.get("id")
        if not is_int(key) or key < 1 or key in used:
            row["id"] = next(fresh)
            problem = "used twice" if is_int(key) and key in used else "not an integer >= 1"
            if is_int(key) and key == 0:
                problem = "0 means 'no match' to the official evaluators"
            checker.add(f"{where}.id", key, problem, f"renumbered {row['id']}")
        used.add(int(row["id"]))
        if "iscrowd" not in row or row["iscrowd"] not in (0, 1):
            value = row.get("iscrowd")
            checker.add(f"{where}.iscrowd", value, "neither 0 nor 1", "set to 0")
            row["iscrowd"] = 0
        video = checker.videos[row["video_id"]]
        for side in ("height", "width", "length"):
            if side in row and video.get(side) is not None and row[side] != video[side]:
                problem = f"the video says {video[side]}"
                checker.add(f"{where}.{side}", row[side], problem, "set to the video's")
                row[side] = video[side]
        _check_occlusion(checker, where, row)
        masks = check_masks(checker, where, row, "segmentations", video, polygons=True)
        if "segmentations_refined" in row:
            check_masks(checker, where, row, "segmentations_refined", video, polygons=True)
        if masks is not None:
            checker.tracks.append(Track(where, int(row["video_id"]), masks))
            check_areas_and_boxes(checker, where, row, masks)
        kept.append(row)
    return kept


def _check_references(checker: Checker, where: str, row: dict[str, Json], truth: bool) -> bool:
    """True if the entry's video is known; notes unknown videos and categories."""
    for key in ("category_id", "video_id"):
        _mend_integer(checker, where, row, key)
    video, category = row.get("video_id"), row.get("category_id")
    known = checker.categories
    if not is_int(category):
        checker.add(f"{where}.category_id", category, "not an integer", "left out of the copy")
        return False
    if known is not None and category not in known:
        _note_category(checker, where, int(category), known, truth)
    if not is_int(video):
        checker.add(f"{where}.video_id", video, "not an integer", "left out of the copy")
        return False
    if checker.videos and video not in checker.videos:
        checker.add(f"{where}.video_id", video, "no such video", "left out of the copy")
        return False
    if not checker.videos and known is not None:
        checker.add(f"{where}.video_id", video, "the file has no videos", "left out of the copy")
        return False
    return True


def _note_category(
    checker: Checker, where: str, category: int, known: set[int], truth: bool
) -> None:
    """An unknown category: the copy of annotations lists it, that of results keeps it."""
    problem, path = "no such category; scoring drops the entry", f"{where}.category_id"
    if truth:
        name = f"category_{category}"
        checker.add(path, category, problem, f"{name!r} is added to the categories; name it")
        known.add(category)
        checker.new_categories.append({"id": category, "name": name})
        return
    hint = " (they seem to count from 0: every class would be one off)"
    fix = "left as it is: write the ids of the ground truth"
    checker.add(path, category, problem, fix + hint * (category == 0 and 1 in known))


def _mend_integer(checker: Checker, where: str, row: dict[str, Json], key: str) -> None:
    """Numbers in text or with a point become integers."""
    value = row.get(key)
    number = as_integer(value)
    if number is not None and not isinstance(value, int):
        checker.add(f"{where}.{key}", value, "not an integer", f"written as {number}")
        row[key] = number


def as_integer(value: object) -> int | None:
    """The integer that a number or a text of digits stands for; None if it is none."""
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if is_int(value) else None


def _check_occlusion(checker: Checker, where: str, row: dict[str, Json]) -> None:
    if "occlusion" not in row:
        return
    words = row["occlusion"]
    if not isinstance(words, list):
        checker.add(f"{where}.occlusion", words, "not a list", "list one word or null per frame")
        return
    for t, word in enumerate(words):
        if word is not None and (not isinstance(word, str) or word not in OCCLUSION_LEVELS):
            choices = ", ".join(OCCLUSION_LEVELS)
            checker.add(f"{where}.occlusion[{t}]", word, "unknown word", f"one of {choices}, null")
    if not any(words):
        checker.add(f"{where}.occlusion", words, "names no frame", "name at least one")


# --- results ------------------------------------------------------------------------------------


def check_results(
    data: list[Json], name: str = "results", truth: dict[str, Json] | None = None
) -> CheckReport:
    """Check a parsed result file; ``truth`` is the parsed annotation file it is meant for."""
    checker = Checker(name)
    if truth is not None:
        quiet = Checker("ground truth")
        _check_categories(quiet, copy.deepcopy(_list(truth, "categories")))
        _check_videos(quiet, copy.deepcopy(_list(truth, "videos")), {})
        checker.videos, checker.categories = quiet.videos, quiet.categories
    kept: list[dict[str, Json]] = []
    seen: dict[tuple[Any, ...], str] = {}
    lengths: dict[int, int] = {}
    for where, original in _objects(checker, data, "results"):
        row = dict(original)
        if not _check_references(checker, where, row, truth=False):
            continue
        score = _score(checker, where, row)
        if not is_finite(score):
            checker.add(f"{where}.score", score, "not a finite number", "left out of the copy")
            continue
        video_id = int(row["video_id"])
        video = checker.videos.get(video_id, {})
        if not video and isinstance(row.get("segmentations"), list):
            found = len(row["segmentations"])
            video = {"length": lengths.setdefault(video_id, found)}
        masks = check_masks(checker, where, row, "segmentations", video, polygons=False)
        if masks is None:
            continue
        checker.tracks.append(Track(where, video_id, masks))
        key = (
            video_id,
            row["category_id"],
            float(row["score"]),
            tuple("" if m is None else m["counts"] for m in masks),
        )
        first = seen.setdefault(key, where)
        if first != where:
            checker.add(where, "the entry", f"the same as {first}", "left out of the copy")
            continue
        kept.append(row)
    videos = len(checker.videos) or len({t.video_id for t in checker.tracks})
    statistics = {"videos": videos, "results": len(kept), **describe_tracks(checker, videos)}
    return CheckReport("results", checker.defects, statistics, kept)


def _score(checker: Checker, where: str, row: dict[str, Json]) -> Json:
    """The score; text that holds a number is mended in ``row``."""
    value = row.get("score")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        if math.isfinite(number):
            checker.add(f"{where}.score", value, "text, not a number", f"written as {number}")
            row["score"] = number
    return row.get("score")


def _list(data: object, key: str) -> list[Json]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, list) else []
