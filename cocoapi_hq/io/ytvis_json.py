"""YouTube-VIS files: annotations and results, read video by video so that memory stays flat.

A file is scanned once for where its entries lie; the entries of one video are parsed when that
video is scored, in whichever process does it. Objects in memory are served the same way.
"""

from __future__ import annotations

import ctypes
import mmap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import native
from cocoapi_hq.io.fields import is_int, need, short
from cocoapi_hq.io.json_file import Json, parse_json, read_json

Source = str | PathLike[str] | Sequence[Any] | dict[str, Any]
Int64 = npt.NDArray[np.int64]

_SPANS_PER_CALL = 65536
_MAX_MEMBERS = 256
_NAMED = 5


class Entries(Protocol):
    """A list of JSON objects of which each belongs to a video.

    Attributes:
        name: what messages call the list: a file name or ``results``.
        positions: (N,) places in the whole list, for messages.
    """

    name: str
    positions: Int64

    def __len__(self) -> int: ...

    def video_ids(self) -> list[Json]:
        """What stands under ``video_id``, one value per entry; None where it is missing."""

    def subset(self, rows: Sequence[int]) -> Entries:
        """Some of the entries, cheap to send to another process."""

    def load(self) -> list[Json]:
        """Parse the entries."""


@dataclass
class MemoryEntries:
    """Entries that are Python objects already."""

    name: str
    items: list[Json]
    positions: Int64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if len(self.positions) != len(self.items):
            self.positions = np.arange(len(self.items), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def video_ids(self) -> list[Json]:
        """Id of the video of every entry; None where it is missing."""
        return [e.get("video_id") if isinstance(e, dict) else None for e in self.items]

    def subset(self, rows: Sequence[int]) -> MemoryEntries:
        """Some of the entries."""
        index = np.asarray(rows, dtype=np.int64)
        return MemoryEntries(self.name, [self.items[i] for i in index], self.positions[index])

    def load(self) -> list[Json]:
        """The entries."""
        return self.items


@dataclass
class FileEntries:
    """Entries that lie in a file; only their offsets are held.

    Attributes:
        path: the file.
        spans: (N, 4) int64 offsets of the entry and of the value of its ``video_id``.
    """

    name: str
    path: Path
    spans: Int64
    positions: Int64

    def __len__(self) -> int:
        return len(self.spans)

    def video_ids(self) -> list[Json]:
        """Id of the video of every entry, read alone; None where it is missing."""
        ids: list[Json] = []
        with self.path.open("rb") as file:
            for position, (begin, end, id_begin, id_end) in zip(
                self.positions, self.spans.tolist(), strict=True
            ):
                if id_end > id_begin:
                    value = self._parse(file, id_begin, id_end, int(position))
                else:
                    whole = self._parse(file, begin, end, int(position))
                    value = whole.get("video_id") if isinstance(whole, dict) else None
                ids.append(value)
        return ids

    def subset(self, rows: Sequence[int]) -> FileEntries:
        """Places of some of the entries in the file."""
        index = np.asarray(rows, dtype=np.int64)
        return FileEntries(self.name, self.path, self.spans[index], self.positions[index])

    def load(self) -> list[Json]:
        """The entries, read from the file."""
        with self.path.open("rb") as file:
            return [
                self._parse(file, begin, end, int(position))
                for position, (begin, end, _, _) in zip(
                    self.positions, self.spans.tolist(), strict=True
                )
            ]

    def _parse(self, file: Any, begin: int, end: int, position: int) -> Json:
        file.seek(begin)
        return parse_json(file.read(end - begin), f"{self.name}: entry {position}", begin)


class _Index:
    """A read-only map of a JSON file and the kernel's scanner over it."""

    def __init__(self, path: Path, library: ctypes.CDLL) -> None:
        self.library = library
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ScoringError(f"{path}: cannot be read ({error.strerror or error}).") from None
        self.view = np.frombuffer(self.map, dtype=np.uint8)
        self.size = len(self.map)

    def members(self, position: int) -> tuple[dict[bytes, tuple[int, int]], int] | None:
        """Key -> value span of the object at ``position``, and where it closes."""
        spans = np.zeros((_MAX_MEMBERS, 4), dtype=np.int64)
        close = ctypes.c_int64()
        count = self.library.hq_json_members(
            self.view.ctypes.data, self.size, 1, position, _MAX_MEMBERS, spans.ctypes.data,
            ctypes.addressof(close),
        )  # fmt: skip
        if count < 0:
            return None
        found = {bytes(self.map[k0:k1]): (v0, v1) for k0, k1, v0, v1 in spans[:count].tolist()}
        if len(found) < count:
            return None  # a key stands there twice; the parser decides
        return found, close.value

    def elements(self, position: int, key: bytes) -> tuple[Int64, int] | None:
        """Spans of the array whose bracket stands at ``position``, and where it closes."""
        at, close = ctypes.c_int64(position + 1), ctypes.c_int64()
        parts: list[Int64] = []
        while at.value >= 0:
            spans = np.zeros((_SPANS_PER_CALL, 4), dtype=np.int64)
            count = self.library.hq_json_elements(
                self.view.ctypes.data, self.size, 1, ctypes.addressof(at), key, len(key),
                _SPANS_PER_CALL, spans.ctypes.data, ctypes.addressof(close),
            )  # fmt: skip
            if count < 0:
                return None
            parts.append(spans[:count])
        return np.concatenate(parts), close.value

    def only_space(self, begin: int, end: int) -> bool:
        """True if nothing but white space stands there."""
        return not bytes(self.map[begin:end]).strip(b" \t\r\n")

    def close(self) -> None:
        """Give the map back."""
        del self.view
        self.map.close()


def _scan_list(path: Path, library: ctypes.CDLL) -> Int64 | None:
    index = _Index(path, library)
    try:
        start = index.map.find(b"[")
        if start < 0 or not index.only_space(0, start):
            return None
        found = index.elements(start, b"video_id")
        if found is None or not index.only_space(found[1], index.size):
            return None
        return found[0]
    finally:
        index.close()


def open_list(source: Source, name: str) -> Entries:
    """Open a list of entries.

    Args:
        source: path of a JSON file, or the list itself.
        name: what messages call it when it is no file.

    Returns:
        The entries.

    Raises:
        ScoringError: the file cannot be read, is no JSON, or its top is no list.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        library = native.kernel()
        if library is not None and path.is_file() and path.stat().st_size:
            spans = _scan_list(path, library)
            if spans is not None:
                positions = np.arange(len(spans), dtype=np.int64)
                return FileEntries(path.name, path, spans, positions)
        source, name = read_json(path, path.name), path.name
    if not isinstance(source, (list, tuple)):
        raise ScoringError(
            f"{name}: the top of a result file is a list of entries, this one is a "
            f"{type(source).__name__}."
        )
    return MemoryEntries(name, list(source))


@dataclass(frozen=True)
class Video:
    """One video of the ground truth.

    Attributes:
        id: its id.
        height: pixels, or None if the file does not say.
        width: pixels, or None.
        length: number of frames, or None.
        file_names: frame paths relative to the image folder, may be empty.
        name: "" if the file gives none.
    """

    id: int
    height: int | None
    width: int | None
    length: int | None
    file_names: tuple[str, ...] = ()
    name: str = ""


@dataclass
class GroundTruth:
    """An annotation file: what is small is parsed, the annotations are entries.

    Attributes:
        name: file name for messages.
        videos: id -> video, in the order of the file.
        categories: id -> name, in the order of the file.
        annotations: the tubes.
    """

    name: str
    videos: dict[int, Video]
    categories: dict[int, str]
    annotations: Entries


def open_ground_truth(source: Source, name: str = "ground truth") -> GroundTruth:
    """Open an annotation file.

    Args:
        source: path, or the parsed object.
        name: what messages call it when it is no file.

    Returns:
        The ground truth.

    Raises:
        ScoringError: unreadable, no JSON, or ``videos``, ``categories`` or ``annotations`` break
            their format.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        name = path.name
        library = native.kernel()
        if library is not None and path.is_file() and path.stat().st_size:
            opened = _scan_ground_truth(path, library)
            if opened is not None:
                return opened
        source = read_json(path, name)
    if not isinstance(source, dict):
        raise ScoringError(
            f"{name}: the top of an annotation file is an object with videos, categories and "
            f"annotations, this one is a {type(source).__name__}."
        )
    _need_lists(source, name)
    return GroundTruth(
        name,
        _read_videos(source["videos"], name),
        _read_categories(source["categories"], name),
        MemoryEntries(name, source["annotations"]),
    )


def _need_lists(top: dict[str, Json], name: str) -> None:
    for key in ("videos", "categories", "annotations"):
        if key not in top:
            if key == "categories":
                raise ScoringError(
                    f"{name}: the file has no 'categories', which name the classes; add "
                    '[{"id": 1, "name": "object"}] or whatever ids the annotations have.'
                )
            raise ScoringError(f"{name}: the file has no {key!r}; it is no annotation file.")
        if key == "annotations" and top[key] is None:
            raise ScoringError(
                f"{name}: annotations are null, as in files for a server; there is nothing to "
                "score against."
            )
        if not isinstance(top[key], list):
            raise ScoringError(f"{name}: {key} is {short(top[key])}; give a list.")


def _scan_ground_truth(path: Path, library: ctypes.CDLL) -> GroundTruth | None:
    """The same from a map of the file; None when the plain way should tell what is wrong."""
    index = _Index(path, library)
    try:
        found = index.members(0)
        if found is None or not index.only_space(found[1], index.size):
            return None
        spans = found[0]
        if not {b"videos", b"categories", b"annotations"} <= set(spans):
            return None
        begin, end = spans[b"annotations"]
        if index.map[begin : begin + 1] != b"[":
            return None
        elements = index.elements(begin, b"video_id")
        if elements is None or elements[1] != end:
            return None
        # What is not read is parsed as well: a damaged file must not pass for a sound one.
        small = {
            key: parse_json(bytes(index.map[b:e]), path.name, b)
            for key, (b, e) in spans.items()
            if key != b"annotations"
        }
    finally:
        index.close()
    top = {"annotations": [], "videos": small[b"videos"], "categories": small[b"categories"]}
    _need_lists(top, path.name)
    positions = np.arange(len(elements[0]), dtype=np.int64)
    return GroundTruth(
        path.name,
        _read_videos(top["videos"], path.name),
        _read_categories(top["categories"], path.name),
        FileEntries(path.name, path, elements[0], positions),
    )


def _optional_count(entry: dict[str, Json], key: str, where: str) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if not is_int(value) or value < 1 or value > 2**31:
        raise ScoringError(f"{where}.{key} is {short(value)}; give a positive integer.")
    return int(value)


def _read_videos(rows: list[Json], name: str) -> dict[int, Video]:
    videos: dict[int, Video] = {}
    for i, row in enumerate(rows):
        where = f"{name}: videos[{i}]"
        if not isinstance(row, dict):
            raise ScoringError(f"{where} is {short(row)}; give an object.")
        key = int(need(row, "id", where, is_int, "an integer"))
        if key in videos:
            raise ScoringError(f"{where}.id {key} appears twice; give every video its own id.")
        names = row.get("file_names")
        if names is not None and (
            not isinstance(names, list) or not all(isinstance(n, str) for n in names)
        ):
            raise ScoringError(f"{where}.file_names is {short(names)}; give a list of paths.")
        length = _optional_count(row, "length", where)
        if length is not None and names and len(names) != length:
            raise ScoringError(
                f"{where} (id={key}) says length {length} but lists {len(names)} file_names; "
                "correct one of them."
            )
        if length is None and names:
            length = len(names)
        videos[key] = Video(
            key,
            _optional_count(row, "height", where),
            _optional_count(row, "width", where),
            length,
            tuple(names or ()),
            str(row.get("name") or ""),
        )
    return videos


def _read_categories(rows: list[Json], name: str) -> dict[int, str]:
    categories: dict[int, str] = {}
    for i, row in enumerate(rows):
        where = f"{name}: categories[{i}]"
        if not isinstance(row, dict):
            raise ScoringError(f"{where} is {short(row)}; give an object.")
        key = int(need(row, "id", where, is_int, "an integer"))
        if key in categories:
            raise ScoringError(f"{where}.id {key} appears twice; give every category its own id.")
        categories[key] = str(row.get("name", key))
    return categories


def group_by_video(entries: Entries, known: dict[int, Video], what: str) -> dict[int, list[int]]:
    """Rows of every video.

    Args:
        entries: annotations or results.
        known: the videos of the ground truth.
        what: ``annotation`` or ``result``, for messages.

    Returns:
        video id -> rows in the order of the file; videos without entries are left out.

    Raises:
        ScoringError: an entry without a ``video_id``, or with one that the ground truth lacks.
    """
    rows: dict[int, list[int]] = {}
    for row, value in enumerate(entries.video_ids()):
        where = f"{entries.name}: {what} {int(entries.positions[row])}"
        if value is None:
            raise ScoringError(f"{where} has no 'video_id'; is it an entry of the right kind?")
        if not is_int(value):
            raise ScoringError(f"{where}.video_id is {short(value)}; give an integer.")
        if value not in known:
            raise ScoringError(
                f"{where}.video_id {short(value)} is not among the {len(known)} videos of the "
                "ground truth; were the files made for the same split?"
            )
        rows.setdefault(int(value), []).append(row)
    return rows


def unknown_categories(name: str, dropped: Counter[int], known: Iterable[int]) -> str:
    """A sentence about results whose categories the ground truth does not have.

    Args:
        name: of the results.
        dropped: unknown category -> results.
        known: categories of the ground truth.
    """
    known = list(known)
    named = ", ".join(f"{key} ({count})" for key, count in sorted(dropped.items())[:_NAMED])
    range_ = f"{min(known)} to {max(known)}" if known else "none"
    sentence = (
        f"{name}: {sum(dropped.values())} results of unknown categories are left out: category_id "
        f"{named}; the ground truth has {range_}."
    )
    if 0 in dropped and known and min(known) == 1:
        sentence += (
            " They seem to count from 0: then the results that are scored have wrong classes, too. "
            "Write the category ids of the ground truth."
        )
    return sentence
