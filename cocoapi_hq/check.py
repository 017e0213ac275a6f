"""Every defect of an annotation or result file in one run: place, value, fix; and statistics.

Scoring stops at the first defect it meets; this looks at the whole file, names each one, and can
write a mended copy. What cannot be mended without guessing (a corrupt mask, a result without a
video) becomes null or is left out of the copy, and its line says so.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq import rle
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.image_check import ImageOpener, check_images
from cocoapi_hq.json_file import Json, read_json
from cocoapi_hq.protocol import OCCLUSION_LEVELS
from cocoapi_hq.runs import open_masks
from cocoapi_hq.ytvis_json import is_int, short


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        file: file name.
        path: place in the JSON, e.g. ``annotations[3].segmentations[7].size``.
        value: what stands there, shortened.
        problem: what is wrong with it.
        fix: what a person should do, or what the mended copy does.
    """

    file: str
    path: str
    value: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path} = {self.value}: {self.problem}. Fix: {self.fix}."


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


@dataclass
class _Track:
    """A tube whose masks were readable, for comparisons and statistics."""

    path: str
    video_id: int
    masks: list[rle.Rle | None]


@dataclass
class _Checker:
    file: str
    videos: dict[int, dict[str, Json]] = field(default_factory=dict)
    categories: set[int] | None = None
    defects: list[Defect] = field(default_factory=list)
    tracks: list[_Track] = field(default_factory=list)
    images: ImageOpener | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, value: object, problem: str, fix: str) -> None:
        """Note a defect."""
        self.defects.append(Defect(self.file, path, short(value), problem, fix))


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
    data = read_json(path, path.name)
    if isinstance(data, list):
        truth = None if gt is None else read_json(Path(gt), Path(gt).name)
        return check_results(data, path.name, truth)
    if isinstance(data, dict) and "annotations" in data:
        return check_annotations(data, path.name, images)
    raise ScoringError(
        f"{path.name}: neither an annotation file (an object with annotations) nor a result file "
        "(a list of entries)."
    )


# --- ground truth -----------------------------------------------------------------------------


def check_annotations(
    data: dict[str, Json], name: str = "ground truth", images: ImageOpener | None = None
) -> CheckReport:
    """Check a parsed annotation file; see :func:`check_file`."""
    checker = _Checker(name, images=images)
    mended: dict[str, Json] = {k: copy.deepcopy(v) for k, v in data.items() if k != "annotations"}
    for key in ("videos", "categories", "annotations"):
        if not isinstance(data.get(key), list):
            empty = key == "annotations" and data.get(key, 0) is None
            problem = "there are no annotations to score against" if empty else "not a list"
            checker.add(key, data.get(key), problem, "give a list (the copy has an empty one)")
            mended[key] = []
    videos = _check_videos(checker, mended["videos"])
    mended["videos"] = [row for _, row in videos]
    opened = _check_images(checker, videos)
    mended["categories"] = _check_categories(checker, mended["categories"])
    mended["annotations"] = _check_tubes(checker, _list(data, "annotations"))
    _find_doubles(checker)
    statistics = {
        "videos": len(mended["videos"]),
        **opened,
        "categories": len(mended["categories"]),
        "annotations": len(mended["annotations"]),
        **_statistics(checker, len(mended["videos"])),
    }
    return CheckReport("ground truth", checker.defects, statistics, mended, checker.notes)


def _objects(
    checker: _Checker, rows: list[Json], path: str
) -> Iterable[tuple[str, dict[str, Json]]]:
    for i, row in enumerate(rows):
        where = f"{path}[{i}]"
        if isinstance(row, dict):
            yield where, row
        else:
            checker.add(where, row, "not an object", "left out of the copy")


def _check_videos(checker: _Checker, rows: list[Json]) -> list[tuple[str, dict[str, Json]]]:
    """Place and row of each video that the copy keeps."""
    kept = []
    for where, row in _objects(checker, rows, "videos"):
        key = row.get("id")
        if not is_int(key):
            checker.add(f"{where}.id", key, "not an integer", "left out of the copy")
            continue
        if key in checker.videos:
            checker.add(f"{where}.id", key, "a second video of this id", "left out of the copy")
            continue
        for side in ("height", "width"):
            if not is_int(row.get(side)) or row[side] < 1:
                checker.add(f"{where}.{side}", row.get(side), "not a positive integer", "set it")
                row[side] = None
        _check_file_names(checker, where, row)
        checker.videos[int(key)] = row
        kept.append((where, row))
    return kept


def _check_file_names(checker: _Checker, where: str, row: dict[str, Json]) -> None:
    names, length = row.get("file_names"), row.get("length")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        checker.add(f"{where}.file_names", names, "not a list of paths", "list one per frame")
        row["file_names"] = names = []
    repeated = [n for n, times in Counter(names).items() if times > 1]
    if repeated:
        checker.add(f"{where}.file_names", repeated[0], "listed more than once", "list it once")
    if not is_int(length) or length < 1:
        checker.add(f"{where}.length", length, "not a positive integer", "set to the file count")
        row["length"] = len(names) or None
    elif names and length != len(names):
        problem = f"there are {len(names)} file_names"
        checker.add(f"{where}.length", length, problem, "set to the file count")
        row["length"] = len(names)


def _check_images(checker: _Checker, rows: list[tuple[str, dict[str, Json]]]) -> dict[str, Json]:
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


def _check_categories(checker: _Checker, rows: list[Json]) -> list[dict[str, Json]]:
    kept, seen, names = [], set(), set()
    for where, row in _objects(checker, rows, "categories"):
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


def _check_tubes(checker: _Checker, rows: list[Json]) -> list[dict[str, Json]]:
    kept: list[dict[str, Json]] = []
    used: set[int] = set()
    wanted = {int(r["id"]) for r in rows if isinstance(r, dict) and is_int(r.get("id"))}
    fresh = itertools.count(max([0, *wanted]) + 1)
    for where, original in _objects(checker, rows, "annotations"):
        row = dict(original)
        if not _check_references(checker, where, row):
            continue
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
        masks = _check_masks(checker, where, row, "segmentations", video, polygons=True)
        if "segmentations_refined" in row:
            _check_masks(checker, where, row, "segmentations_refined", video, polygons=True)
        if masks is not None:
            checker.tracks.append(_Track(where, int(row["video_id"]), masks))
            _check_areas_and_boxes(checker, where, row, masks)
        kept.append(row)
    return kept


def _check_references(checker: _Checker, where: str, row: dict[str, Json]) -> bool:
    """True if the entry's video is known; notes unknown videos and categories."""
    video, category = row.get("video_id"), row.get("category_id")
    known = checker.categories
    if not is_int(category):
        checker.add(f"{where}.category_id", category, "not an integer", "left out of the copy")
        return False
    if known is not None and category not in known:
        problem = "no such category; scoring drops the entry"
        checker.add(f"{where}.category_id", category, problem, "left out of the copy")
        return False
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


def _check_occlusion(checker: _Checker, where: str, row: dict[str, Json]) -> None:
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


def _check_masks(
    checker: _Checker,
    where: str,
    row: dict[str, Json],
    key: str,
    video: dict[str, Json],
    polygons: bool,
) -> list[rle.Rle | None] | None:
    """Check one list of masks and mend it in ``row``; None if it is no list."""
    where = f"{where}.{key}"
    entries = row.get(key)
    if not isinstance(entries, list):
        checker.add(where, entries, "not a list", "give one mask or null per frame")
        return None
    length = video.get("length")
    if is_int(length) and len(entries) != length:
        fix = "null added at the end" if len(entries) < length else "cut at the end"
        problem = f"the video has {length} frames"
        checker.add(where, f"{len(entries)} entries", problem, fix)
        entries = (entries + [None] * length)[:length]
    size = (video.get("height"), video.get("width"))
    frame = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    masks: list[rle.Rle | None] = []
    mended = list(entries)
    for t, entry in enumerate(entries):
        if polygons and isinstance(entry, list) and not rle.is_absent(entry):
            entry = mended[t] = _check_rings(checker, f"{where}[{t}]", entry)
        mask = _check_mask(checker, f"{where}[{t}]", entry, frame, polygons)
        masks.append(mask)
        if mask is None or (not polygons and not isinstance(entry["counts"], str)):
            mended[t] = mask
    row[key] = mended
    if masks and not any(m is not None and rle.area(m) for m in masks):
        checker.add(where, f"{len(masks)} entries", "the object is never visible", "remove it")
    return masks


def _check_rings(checker: _Checker, where: str, entry: list[Json]) -> Json:
    """A polygon without rings that enclose nothing; null if it has no other."""
    try:
        rings, idle = rle.split_rings(entry, where)
    except ScoringError:
        return entry  # said by _check_mask
    flat = not isinstance(entry[0], list)
    if flat:
        checker.add(where, entry, "the numbers of a ring", "a list with this ring")
        entry = [entry]
    for k in idle:
        problem = "a ring that encloses nothing"
        fix = "left out of the copy" if rings else "null in the copy"
        checker.add(f"{where}[{k}]", entry[k], problem, fix)
    good = [ring for k, ring in enumerate(entry) if k not in idle]
    return good or None


def _check_mask(
    checker: _Checker,
    where: str,
    entry: Json,
    frame: tuple[int, int] | None,
    polygons: bool,
) -> rle.Rle | None:
    if entry is None:
        return None
    if rle.is_absent(entry):
        checker.add(where, entry, "an odd way to say that there is no mask", "null")
        return None
    if isinstance(entry, list) and polygons and frame is None:
        checker.add(where, entry, "a polygon, but the video has no size", "set the video's size")
        return None
    try:
        mask = rle.validate(entry, where, frame if polygons else None)
    except ScoringError as error:
        problem = str(error).removeprefix(f"{where}: ").removeprefix(where).rstrip(".")
        checker.add(where, entry, problem, "null in the copy")
        return None
    if not polygons and isinstance(entry.get("counts"), list):
        checker.add(where, entry, "uncompressed; the official evaluators refuse it", "compressed")
    if frame is not None and tuple(mask["size"]) != frame:
        problem = f"the video is {list(frame)}; such a frame counts in no score"
        checker.add(f"{where}.size", mask["size"], problem, "null in the copy")
        return None
    return mask


def _check_areas_and_boxes(
    checker: _Checker, where: str, row: dict[str, Json], masks: list[rle.Rle | None]
) -> None:
    texts = ["" if m is None else m["counts"] for m in masks]
    sizes = np.array([[0, 0] if m is None else m["size"] for m in masks], dtype=np.int32)
    sizes = sizes.reshape(-1, 2)
    store = open_masks(texts, sizes[:, 0], sizes[:, 1])
    areas: list[Json] = [
        None if m is None else int(a) for m, a in zip(masks, store.areas, strict=True)
    ]
    boxes: list[Json] = [
        None if m is None else [int(b[0]), int(b[1]), int(b[2] - b[0]), int(b[3] - b[1])]
        for m, b in zip(masks, store.boxes, strict=True)
    ]
    for key, right in (("areas", areas), ("bboxes", boxes)):
        given = row.get(key)
        path = f"{where}.{key}"
        if key == "bboxes" and given is None:
            continue  # not needed for masks
        if not isinstance(given, list) or len(given) != len(right):
            found = f"{len(given)} entries" if isinstance(given, list) else given
            checker.add(path, found, f"must have {len(right)} entries", "computed from the masks")
            row[key] = right
            continue
        fixed = list(given)
        for t, (found, true) in enumerate(zip(given, right, strict=True)):
            if not _agrees(found, true):
                fix = f"{short(true)}, computed from the mask"
                checker.add(f"{path}[{t}]", found, "does not fit the mask", fix)
                fixed[t] = true
        row[key] = fixed


def _agrees(found: Json, true: Json) -> bool:
    """True if an area or a box fits; one pixel of slack per side for boxes, 1% for areas."""
    if true is None or true == 0 or true == [0, 0, 0, 0]:
        return found in (None, 0, true)
    if isinstance(true, list):
        if not isinstance(found, list) or len(found) != 4 or not all(map(_finite, found)):
            return False
        x, y, w, h = (float(v) for v in found)
        ours, theirs = _corners(*true), _corners(x, y, w, h)
        return all(abs(a - b) <= 1.0 for a, b in zip(ours, theirs, strict=True))
    return _finite(found) and abs(float(found) - true) <= max(1.0, 0.01 * true)


def _corners(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
    return x, y, x + w, y + h


def _finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _find_doubles(checker: _Checker) -> None:
    """Tubes of one video that are the same in every frame."""
    seen: dict[tuple[int, tuple[str, ...]], str] = {}
    for track in checker.tracks:
        texts = tuple("" if m is None else m["counts"] for m in track.masks)
        if not any(texts):
            continue
        first = seen.setdefault((track.video_id, texts), track.path)
        if first != track.path:
            checker.add(track.path, "all masks", f"the same as {first}", "remove one of them")


# --- results ------------------------------------------------------------------------------------


def check_results(
    data: list[Json], name: str = "results", truth: dict[str, Json] | None = None
) -> CheckReport:
    """Check a parsed result file; ``truth`` is the parsed annotation file it is meant for."""
    checker = _Checker(name)
    if truth is not None:
        quiet = _Checker("ground truth")
        _check_categories(quiet, copy.deepcopy(_list(truth, "categories")))
        _check_videos(quiet, copy.deepcopy(_list(truth, "videos")))
        checker.videos, checker.categories = quiet.videos, quiet.categories
    kept: list[dict[str, Json]] = []
    seen: dict[tuple[Any, ...], str] = {}
    lengths: dict[int, int] = {}
    for where, original in _objects(checker, data, "results"):
        row = dict(original)
        if not _check_references(checker, where, row):
            continue
        score = row.get("score")
        if not _finite(score):
            checker.add(f"{where}.score", score, "not a finite number", "left out of the copy")
            continue
        video_id = int(row["video_id"])
        video = checker.videos.get(video_id, {})
        if not video and isinstance(row.get("segmentations"), list):
            found = len(row["segmentations"])
            video = {"length": lengths.setdefault(video_id, found)}
        masks = _check_masks(checker, where, row, "segmentations", video, polygons=False)
        if masks is None:
            continue
        checker.tracks.append(_Track(where, video_id, masks))
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
    statistics = {"videos": videos, "results": len(kept), **_statistics(checker, videos)}
    return CheckReport("results", checker.defects, statistics, kept)


def _list(data: object, key: str) -> list[Json]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, list) else []


# --- statistics and output ----------------------------------------------------------------------


def _statistics(checker: _Checker, videos: int) -> dict[str, float | int | str]:
    """Tracks per video, visible length, size and overlap of the readable tubes."""
    by_video: dict[int, list[_Track]] = {}
    for track in checker.tracks:
        by_video.setdefault(track.video_id, []).append(track)
    visible: list[int] = []
    sizes: list[float] = []
    shared = covered = 0
    for tracks in by_video.values():
        masks = [m for track in tracks for m in track.masks]
        texts = ["" if m is None else m["counts"] for m in masks]
        shape = np.array([[0, 0] if m is None else m["size"] for m in masks], dtype=np.int32)
        shape = shape.reshape(-1, 2)
        store = open_masks(texts, shape[:, 0], shape[:, 1])
        lengths = [len(track.masks) for track in tracks]
        first = np.cumsum([0, *lengths])[:-1].astype(np.int64)
        for begin, length in zip(first.tolist(), lengths, strict=True):
            shown = store.areas[begin : begin + length]
            shown = shown[shown > 0]
            visible.append(len(shown))
            sizes.append(float(shown.mean()) if len(shown) else 0.0)
        covered += int(store.areas.sum())
        left, right = np.triu_indices(len(tracks), 1)
        frames = np.minimum(np.array(lengths)[left], np.array(lengths)[right]).astype(np.int32)
        inter, _, _ = store.tube_sums(first[left], first[right], frames)
        shared += int(inter.sum())
    counts = [len(t) for t in by_video.values()] + [0] * max(0, videos - len(by_video))
    area = np.array(sizes)
    small, large = int((area <= 128**2).sum()), int((area >= 256**2).sum())
    return {
        "tracks per video": _spread(counts),
        "visible frames per track": _spread(visible),
        "average area per track, pixels": _spread(sizes),
        "tracks small / medium / large": f"{small} / {len(sizes) - small - large} / {large}",
        "pixels that two tracks share": f"{100 * shared / covered:.2f}%" if covered else "0.00%",
    }


def _spread(values: list[int] | list[float]) -> str:
    if not values:
        return "none"
    low, middle, high = min(values), float(np.mean(values)), max(values)
    return f"{low:.0f} to {high:.0f}, mean {middle:.1f}"
