"""The masks of a checked file: what is wrong with each list, how it is mended, and statistics.

Mending takes away what is wrong and nothing else: a ring without an area goes and its mask stays, a
sound mask is never thrown away. What cannot be read at all becomes null.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

import numpy as np

from cocoapi_hq.check.images import ImageOpener
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_finite, is_int, short
from cocoapi_hq.io.json_file import Json
from cocoapi_hq.io.runs import TubeSums, open_masks


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
class Track:
    """A tube whose masks were readable, for comparisons and statistics."""

    path: str
    video_id: int
    masks: list[rle.Rle | None]


@dataclass
class Checker:
    """What is known of a file while it is checked."""

    file: str
    videos: dict[int, dict[str, Json]] = field(default_factory=dict)
    categories: set[int] | None = None
    defects: list[Defect] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    images: ImageOpener | None = None
    notes: list[str] = field(default_factory=list)
    #: Categories that annotations name and the file does not list.
    new_categories: list[dict[str, Json]] = field(default_factory=list)

    def add(self, path: str, value: object, problem: str, fix: str) -> None:
        """Note a defect."""
        self.defects.append(Defect(self.file, path, short(value), problem, fix))


def check_masks(
    checker: Checker,
    where: str,
    row: dict[str, Json],
    key: str,
    video: dict[str, Json],
    polygons: bool,
) -> list[rle.Rle | None] | None:
    """Check one list of masks and mend it in ``row``.

    Args:
        checker: notes the defects.
        where: of the entry.
        row: the entry, changed in place.
        key: of the list.
        video: its video, as far as it is known.
        polygons: True for annotations; results hold run lengths alone.

    Returns:
        The readable masks, None elsewhere; None if there is no list.
    """
    if key not in row and key == "segmentations" and isinstance(row.get("segmentation"), list):
        problem = "the masks of a video stand under 'segmentations'"
        checker.add(f"{where}.segmentation", row["segmentation"], problem, "renamed")
        row[key] = row.pop("segmentation")
    where = f"{where}.{key}"
    entries = row.get(key)
    if not isinstance(entries, list):
        checker.add(where, entries, "not a list", "give one mask or null per frame")
        return None
    entries = _fit_length(checker, where, entries, video.get("length"))
    size = (video.get("height"), video.get("width"))
    frame = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    masks: list[rle.Rle | None] = []
    mended: list[Json] = []
    for t, entry in enumerate(entries):
        mask, spelled = _check_mask(checker, f"{where}[{t}]", entry, frame, polygons)
        masks.append(mask)
        mended.append(spelled)
    row[key] = mended
    if masks and not any(m is not None and rle.area(m) for m in masks) and not any(mended):
        checker.add(where, f"{len(masks)} entries", "the object is never visible", "remove it")
    return masks


def _fit_length(checker: Checker, where: str, entries: list[Json], length: Json) -> list[Json]:
    """The list with one entry per frame, as far as no mask is lost by it."""
    if not is_int(length) or len(entries) == length:
        return entries
    problem = f"the video has {length} frames"
    if len(entries) < length:
        checker.add(where, f"{len(entries)} entries", problem, "null added at the end")
        return entries + [None] * (length - len(entries))
    if all(map(rle.is_absent, entries[length:])):
        checker.add(where, f"{len(entries)} entries", problem, "cut at the end, where no mask is")
        return entries[:length]
    fix = "left as it is: say in which frames the masks belong"
    checker.add(where, f"{len(entries)} entries", problem, fix)
    return entries


def _check_mask(
    checker: Checker,
    where: str,
    entry: Json,
    frame: tuple[int, int] | None,
    polygons: bool,
) -> tuple[rle.Rle | None, Json]:
    """A mask where it can be read, and what stands in the copy."""
    if entry is None:
        return None, None
    if rle.is_absent(entry):
        checker.add(where, entry, "an odd way to say that there is no mask", "null")
        return None, None
    if isinstance(entry, list):
        return _check_rings(checker, where, entry, frame, polygons)
    entry = _respelled(checker, where, entry)
    try:
        mask = rle.validate(entry, where)
    except ScoringError as error:
        problem = str(error).removeprefix(f"{where}: ").removeprefix(where).rstrip(".")
        checker.add(where, entry, problem, "null in the copy")
        return None, None
    spelled = entry
    if not polygons and isinstance(entry.get("counts"), list):
        checker.add(where, entry, "uncompressed; the official evaluators refuse it", "compressed")
        spelled = mask
    if frame is not None and tuple(mask["size"]) != frame:
        problem = f"the video is {list(frame)}; such a frame counts in no score"
        fix = "left as it is: draw the mask at the size of the video, or correct the video's"
        checker.add(f"{where}.size", mask["size"], problem, fix)
    return mask, spelled


def _check_rings(
    checker: Checker,
    where: str,
    entry: list[Json],
    frame: tuple[int, int] | None,
    polygons: bool,
) -> tuple[rle.Rle | None, Json]:
    """Rings of a mask; those that enclose nothing go, the others stay."""
    if all(map(is_finite, entry)):
        checker.add(where, entry, "the numbers of a ring", "a list with this ring")
        entry = [entry]
    bad: dict[int, str] = {}
    for k, ring in enumerate(entry):
        try:
            if rle.split_rings([ring], where)[1]:
                bad[k] = "a ring that encloses nothing"
        except ScoringError:
            bad[k] = "no ring x0, y0, x1, y1, ... in pixels"
    rings = [ring for k, ring in enumerate(entry) if k not in bad]
    for k, problem in bad.items():
        fix = "left out of the copy" if rings else "null in the copy"
        checker.add(f"{where}[{k}]", entry[k], problem, fix)
    if not rings:
        return None, None
    if frame is None:
        checker.add(where, rings, "a polygon, but the video has no size", "set the video's size")
        return None, rings
    if rle.all_outside(rings, frame):
        problem = f"lies outside the frame of {frame[1]}x{frame[0]} pixels"
        checker.add(where, rings, problem, "left as it is: draw it at the size of the video")
        return None, rings
    mask = rle.from_polygons(rings, *frame, where=where)
    if polygons:
        return mask, rings
    checker.add(where, rings, "a polygon; results hold run lengths", "drawn as run lengths")
    return mask, mask


def _respelled(checker: Checker, where: str, entry: Json) -> Json:
    """Run lengths whose text was spoilt on its way, mended."""
    counts = entry.get("counts") if isinstance(entry, dict) else None
    if not isinstance(counts, str):
        return entry
    text = counts.strip()
    problem = "counts with white space around them"
    if text[:2] in ("b'", 'b"'):
        try:
            text = ast.literal_eval(text).decode("ascii")
        except (ValueError, SyntaxError, UnicodeDecodeError):
            return entry
        problem = "counts are bytes that Python's str() turned into text"
    if text == counts:
        return entry
    checker.add(where, entry, problem, "written as plain text")
    return entry | {"counts": text}


def check_areas_and_boxes(
    checker: Checker, where: str, row: dict[str, Json], masks: list[rle.Rle | None]
) -> None:
    """Hold ``areas`` and ``bboxes`` against the masks, and mend them in ``row``.

    Numbers of masks that stand in the file but could not be drawn are left as they are.
    """
    entries = row["segmentations"]
    undrawn = {t for t, mask in enumerate(masks) if mask is None and entries[t] is not None}
    store = _store(masks)
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
        if given is None:
            continue  # computed from the masks where they are needed
        if not isinstance(given, list) or len(given) != len(right):
            found = f"{len(given)} entries" if isinstance(given, list) else given
            checker.add(path, found, f"must have {len(right)} entries", "computed from the masks")
            row[key] = right
            continue
        fixed = list(given)
        for t, (found, true) in enumerate(zip(given, right, strict=True)):
            if t not in undrawn and not _agrees(found, true):
                fix = f"{short(true)}, computed from the mask"
                checker.add(f"{path}[{t}]", found, "does not fit the mask", fix)
                fixed[t] = true
        row[key] = fixed


def _store(masks: list[rle.Rle | None]) -> TubeSums:
    texts = ["" if m is None else m["counts"] for m in masks]
    sizes = np.array([[0, 0] if m is None else m["size"] for m in masks], dtype=np.int32)
    sizes = sizes.reshape(-1, 2)
    return open_masks(texts, sizes[:, 0], sizes[:, 1])


def _agrees(found: Json, true: Json) -> bool:
    """True if an area or a box fits; one pixel of slack per side for boxes, 1% for areas."""
    if true is None or true == 0 or true == [0, 0, 0, 0]:
        return found in (None, 0, true)
    if isinstance(true, list):
        if not isinstance(found, list) or len(found) != 4 or not all(map(is_finite, found)):
            return False
        x, y, w, h = (float(v) for v in found)
        ours, theirs = _corners(*true), _corners(x, y, w, h)
        return all(abs(a - b) <= 1.0 for a, b in zip(ours, theirs, strict=True))
    return is_finite(found) and abs(float(found) - true) <= max(1.0, 0.01 * true)


def _corners(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
    return x, y, x + w, y + h


def find_doubles(checker: Checker) -> None:
    """Tubes of one video that are the same in every frame."""
    seen: dict[tuple[int, tuple[str, ...]], str] = {}
    for track in checker.tracks:
        texts = tuple("" if m is None else m["counts"] for m in track.masks)
        if not any(texts):
            continue
        first = seen.setdefault((track.video_id, texts), track.path)
        if first != track.path:
            checker.add(track.path, "all masks", f"the same as {first}", "remove one of them")


def describe_tracks(checker: Checker, videos: int) -> dict[str, float | int | str]:
    """Tracks per video, visible length, size and overlap of the readable tubes."""
    by_video: dict[int, list[Track]] = {}
    for track in checker.tracks:
        by_video.setdefault(track.video_id, []).append(track)
    visible: list[int] = []
    sizes: list[float] = []
    shared = covered = 0
    for tracks in by_video.values():
        store = _store([mask for track in tracks for mask in track.masks])
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
