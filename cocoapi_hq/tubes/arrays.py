"""One video as arrays: tubes of both sides checked, masks parsed, areas and occlusion known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import annotation_id, category_of, is_crowd, is_finite, need, short
from cocoapi_hq.io.json_file import Json
from cocoapi_hq.io.runs import PRESENT, Int32, Int64, TubeSums, open_masks
from cocoapi_hq.io.ytvis_json import Entries, Video
from cocoapi_hq.tubes.boundary import boundary_distance
from cocoapi_hq.tubes.protocol import OCCLUSION_LEVELS, TubeProtocol

#: Lists of masks in an annotation.
PLAIN, REFINED = "segmentations", "segmentations_refined"
_OCCLUSION_WANT = "one word per frame, or choose a protocol without occlusion ranges"

Float64 = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer[Any]]
Bool = npt.NDArray[np.bool_]


@dataclass
class Side:
    """The tubes of one side in one video.

    Attributes:
        keys: (N,) annotation ids, or positions in the result file.
        categories: (N,) category ids.
        first: (N,) index of the first mask of every tube in the store of the video.
        frames: (N,) entries of every tube.
        area: (N,) average area over the frames that show the object, pixels.
        boundary_first: (N,) like ``first``, for the boundary term (differs for ``mixed`` masks).
        scores: (N,) of results, zeros for ground truth.
        crowd: (N,) True for crowd tubes, False for results.
        occlusion: (N,) in [0, 1], 0 where the protocol does not ask.
    """

    keys: Int64
    categories: Int64
    first: Int64
    frames: Int32
    area: Float64
    boundary_first: Int64
    scores: Float64
    crowd: Bool
    occlusion: Float64

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class VideoTubes:
    """Both sides of one video.

    Attributes:
        video: the video.
        gt: ground truth, ascending as in the file.
        dt: results, as in the file.
        masks: the store that ``first`` points into.
        distances: (N masks,) boundary width of every mask in pixels, 0 for missing ones.
        dropped_gt: annotations of unknown categories.
        dropped_dt: unknown category -> results that have it.
        refined: annotations whose refined masks are in use.
        other_name: a ``video_name`` of the results that is not this video's; "" if none is.
    """

    video: Video
    gt: Side
    dt: Side
    masks: TubeSums
    distances: Int32
    dropped_gt: int = 0
    dropped_dt: dict[int, int] = field(default_factory=dict)
    refined: int = 0
    other_name: str = ""


@dataclass
class _Builder:
    """Collects the masks of a video before they are parsed in one go."""

    texts: list[str] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    labels: list[tuple[str, int]] = field(default_factory=list)  # place, first mask

    def add(
        self,
        entries: list[Json],
        where: str,
        frame_size: tuple[int, int] | None,
        pad_to: int | None,
    ) -> int:
        """Append a tube; returns the index of its first mask."""
        first = len(self.texts)
        self.labels.append((where, first))
        texts, heights, widths = self.texts, self.heights, self.widths
        for t, entry in enumerate(entries):
            size = entry.get("size") if type(entry) is dict else None
            text = entry.get("counts") if size else None
            if (
                type(text) is not str
                or not text
                or type(size) is not list
                or len(size) != 2
                or type(size[0]) is not int
                or type(size[1]) is not int
                or size[0] < 1
                or size[1] < 1
                or size[0] * size[1] > rle.MAX_PIXELS
            ):
                if rle.is_absent(entry):
                    size, text = [0, 0], ""
                else:
                    checked = rle.validate(entry, f"{where}[{t}]", frame_size)
                    size, text = checked["size"], checked["counts"]
            texts.append(text)
            heights.append(size[0])
            widths.append(size[1])
        for _ in range(0 if pad_to is None else pad_to - len(entries)):
            texts.append("")
            heights.append(0)
            widths.append(0)
        return first

    def open(self) -> tuple[TubeSums, Int32, Int32]:
        """Parse; ScoringError names the first corrupt mask."""
        heights = np.array(self.heights, dtype=np.int32)
        widths = np.array(self.widths, dtype=np.int32)
        try:
            masks = open_masks(self.texts, heights, widths)
        except UnicodeEncodeError:
            bad = next(i for i, text in enumerate(self.texts) if any(ord(c) > 255 for c in text))
            self._blame(bad)
            raise
        corrupt = np.flatnonzero(masks.status > PRESENT)
        if len(corrupt):
            self._blame(int(corrupt[0]))
        return masks, heights, widths

    def _blame(self, index: int) -> None:
        place, first = max((e for e in self.labels if e[1] <= index), key=lambda e: e[1])
        size = [self.heights[index], self.widths[index]]
        where = f"{place}[{index - first}]"
        rle.validate({"size": size, "counts": self.texts[index]}, where)
        raise AssertionError(f"{where}: the kernel refuses a mask that the codec accepts")


def _tube(
    entry: dict[str, Json], key: str, where: str, video: Video, protocol: TubeProtocol
) -> list[Json]:
    tube = need(entry, key, where, lambda v: isinstance(v, list), "a list, one entry per frame")
    if video.length is not None and len(tube) != video.length:
        if protocol.lengths == "refuse":
            raise ScoringError(
                f"{where}.{key} has {len(tube)} entries, but video_id={video.id} has "
                f"{video.length} frames; give one mask or null per frame (--lengths cut compares "
                "the common part as the YouTube-VIS code does, --lengths pad adds missing frames)."
            )
        if protocol.lengths == "pad" and len(tube) > video.length:
            raise ScoringError(
                f"{where}.{key} has {len(tube)} entries, more than the {video.length} frames of "
                f"video_id={video.id}."
            )
    return list(tube)


def average_annotated_area(areas: list[Json], where: str) -> float:
    """Mean of the entries that are neither null nor 0, as written in the file; 0 if none is.

    Raises:
        ScoringError: an entry is no finite number of at least 0.
    """
    for t, value in enumerate(areas):
        if value is not None and (not is_finite(value) or value < 0):
            raise ScoringError(
                f"{where}[{t}] is {short(value)}; give pixels or null, or leave the list out "
                "(vmt check-annotations --fix corrects it)."
            )
    visible = [float(a) for a in areas if a]
    return float(np.array(visible).mean()) if visible else 0.0


def occlusion_score(entry: dict[str, Json], where: str) -> float:
    """OVIS's score of one tube: mean of the more occluded half of its frames.

    Args:
        entry: annotation with ``occlusion``: one word or null per frame.
        where: the place, for messages.

    Returns:
        Score in [0, 0.75].

    Raises:
        ScoringError: no ``occlusion``, an unknown word, or no frame with a word.
    """
    words = need(entry, "occlusion", where, lambda v: isinstance(v, list), _OCCLUSION_WANT)
    levels: list[float] = []
    for t, word in enumerate(words):
        if word is None:
            continue
        if not isinstance(word, str) or word not in OCCLUSION_LEVELS:
            raise ScoringError(
                f"{where}.occlusion[{t}] is {short(word)}; give null or one of "
                f"{', '.join(OCCLUSION_LEVELS)}."
            )
        levels.append(OCCLUSION_LEVELS[word])
    if not levels:
        raise ScoringError(f"{where}.occlusion names no frame; its occlusion is not defined.")
    levels.sort(reverse=True)
    top = levels[: math.ceil(len(levels) / 2)]
    return sum(top) / len(top)


def mask_keys(entry: dict[str, Json], mask_field: str, where: str) -> tuple[str, str]:
    """Fields that the mask term and the boundary term read."""
    refined = REFINED if REFINED in entry else PLAIN
    if mask_field == "auto":
        return refined, refined
    if mask_field == "mixed":
        return PLAIN, refined
    if mask_field not in entry:
        raise ScoringError(f"{where} has no {mask_field!r}.")
    return mask_field, mask_field


def _object(entry: Json, where: str) -> dict[str, Json]:
    if not isinstance(entry, dict):
        raise ScoringError(f"{where} is {short(entry)}; give an object.")
    return entry


def load_video(
    video: Video,
    annotations: Entries,
    results: Entries,
    categories: dict[int, str],
    protocol: TubeProtocol,
) -> VideoTubes:
    """Parse and check everything of one video.

    Args:
        video: the video.
        annotations: its annotations.
        results: its results, in the order of the file.
        categories: known categories; entries of others are dropped and counted.
        protocol: the rules.

    Returns:
        Both sides and their masks.

    Raises:
        ScoringError: anything in the entries breaks the format; the message names the place.
    """
    builder = _Builder()
    pad_to = video.length if protocol.lengths == "pad" else None
    known = _read_annotations(builder, video, annotations, categories, protocol, pad_to)
    dt_rows: list[tuple[Any, ...]] = []
    dropped: dict[int, int] = {}
    other_name = ""
    for position, raw in zip(results.positions.tolist(), results.load(), strict=True):
        where = f"{results.name}: results[{position}]"
        entry = _object(raw, where)
        _same_video(entry, video, where)
        category = category_of(entry, where)
        if category not in categories:
            dropped[category] = dropped.get(category, 0) + 1
            continue
        other_name = other_name or _other_name(entry, video)
        score = float(need(entry, "score", where, is_finite, "a finite number"))
        tube = _tube(entry, PLAIN, where, video, protocol)
        first = builder.add(tube, f"{where}.{PLAIN}", None, pad_to)
        length = len(builder.texts) - first
        dt_rows.append((position, category, first, length, 0.0, first, score, False, 0.0))
    masks, heights, widths = builder.open()
    distances = _distances(heights, widths, protocol.dilation_ratio)
    gt, dt = _side(known.rows), _side(dt_rows)
    dt.area = _average_mask_area(masks, dt.first, dt.frames)
    if known.unmeasured:
        rows, firsts, lengths = np.array(known.unmeasured, dtype=np.int64).T
        gt.area[rows] = _average_mask_area(masks, firsts, lengths)
    _check_common_length(video, gt, dt, protocol, results.name)
    return VideoTubes(
        video, gt, dt, masks, distances, known.dropped, dropped, known.refined, other_name
    )


@dataclass
class _Annotated:
    """The annotations of one video, read.

    Attributes:
        rows: values of :class:`Side`, one tuple per tube.
        dropped: annotations of unknown categories.
        refined: annotations whose refined masks are in use.
        unmeasured: row, first mask, number of masks of the tubes without ``areas``.
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    dropped: int = 0
    refined: int = 0
    unmeasured: list[tuple[int, int, int]] = field(default_factory=list)


def _read_annotations(
    builder: _Builder,
    video: Video,
    annotations: Entries,
    categories: dict[int, str],
    protocol: TubeProtocol,
    pad_to: int | None,
) -> _Annotated:
    out = _Annotated()
    size = (video.height, video.width) if video.height and video.width else None
    seen: set[int] = set()
    for position, raw in zip(annotations.positions.tolist(), annotations.load(), strict=True):
        where = f"{annotations.name}: annotations[{position}]"
        entry = _object(raw, where)
        _same_video(entry, video, where)
        key = annotation_id(entry, position, where)
        if key in seen:
            raise ScoringError(f"{where}.id {key} appears twice; give every tube its own id.")
        seen.add(key)
        where = f"{where} (id={key})"
        category = category_of(entry, where)
        if category not in categories:
            out.dropped += 1
            continue
        crowd = is_crowd(entry, where)
        mask_key, boundary_key = mask_keys(entry, protocol.mask_field, where)
        out.refined += mask_key != PLAIN or boundary_key != PLAIN
        tube = _tube(entry, mask_key, where, video, protocol)
        first = boundary_first = builder.add(tube, f"{where}.{mask_key}", size, pad_to)
        length = len(builder.texts) - first
        area = 0.0
        if entry.get("areas") is not None:
            area = _annotated_area(entry, where, mask_key, len(tube), protocol)
        elif mask_key == PLAIN or PLAIN not in entry:
            out.unmeasured.append((len(out.rows), first, length))
        else:  # areas are those of the plain masks, whichever masks are scored
            plain = _tube(entry, PLAIN, where, video, protocol)
            start = builder.add(plain, f"{where}.{PLAIN}", size, None)
            out.unmeasured.append((len(out.rows), start, len(plain)))
        if boundary_key != mask_key:
            other = _tube(entry, boundary_key, where, video, protocol)
            if len(other) != len(tube):
                raise ScoringError(
                    f"{where}.{boundary_key} has {len(other)} entries, {mask_key} {len(tube)}."
                )
            boundary_first = builder.add(other, f"{where}.{boundary_key}", size, pad_to)
        occlusion = occlusion_score(entry, where) if protocol.needs_occlusion else 0.0
        out.rows.append((key, category, first, length, area, boundary_first, 0.0, crowd, occlusion))
    return out


def _other_name(entry: dict[str, Json], video: Video) -> str:
    """The ``video_name`` of a result whose ``video_id`` is another video's; "" otherwise."""
    name = entry.get("video_name")
    if not isinstance(name, str) or not video.file_names:
        return ""
    own = {
        *PurePath(video.file_names[0]).parts,
        video.name,
        f"video{video.id}",
        f"video_{video.id}",
    }
    return "" if name in own else name


def _annotated_area(
    entry: dict[str, Json], where: str, mask_key: str, num_masks: int, protocol: TubeProtocol
) -> float:
    areas = need(entry, "areas", where, lambda v: isinstance(v, list), "pixels per frame")
    if protocol.lengths == "refuse" and len(areas) != num_masks:
        raise ScoringError(
            f"{where}.areas has {len(areas)} entries, {mask_key} has {num_masks}; give one "
            "number or null per frame."
        )
    return average_annotated_area(areas, f"{where}.areas")


def _same_video(entry: dict[str, Json], video: Video, where: str) -> None:
    if entry.get("video_id") != video.id:
        raise ScoringError(f"{where}.video_id is {short(entry.get('video_id'))}, not {video.id}.")


def _check_common_length(
    video: Video, gt: Side, dt: Side, protocol: TubeProtocol, name: str
) -> None:
    """Without a length in the file, tubes must at least agree with one another."""
    lengths = set(gt.frames.tolist()) | set(dt.frames.tolist())
    if video.length is None and len(lengths) > 1 and protocol.lengths != "cut":
        raise ScoringError(
            f"{name}: tubes of video_id={video.id} have {sorted(lengths)} entries; give every "
            "tube one mask or null per frame, or the video a 'length'."
        )


def _side(rows: list[tuple[Any, ...]]) -> Side:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    kinds = ["i8", "i8", "i8", "i4", "f8", "i8", "f8", "?", "f8"]
    arrays: list[Any] = [_column(c, kind) for c, kind in zip(columns, kinds, strict=True)]
    return Side(*arrays)


def _column(values: tuple[Any, ...], kind: str) -> npt.NDArray[Any]:
    try:
        return np.array(values, dtype=kind)
    except OverflowError:
        bad = max(values, key=abs)
        raise ScoringError(f"id {short(bad)} is beyond 64 bits; number from 1.") from None


def _average_mask_area(masks: TubeSums, first: Int64, frames: IntArray) -> Float64:
    """Mean area of the frames with pixels of N tubes, (N,); 0 where there is none."""
    total = np.concatenate([[0], np.cumsum(masks.areas)])
    shown = np.concatenate([[0], np.cumsum(masks.areas > 0)])
    end = first + frames
    pixels, visible = total[end] - total[first], shown[end] - shown[first]
    mean: Float64 = np.divide(pixels, visible, out=np.zeros(len(first)), where=visible > 0)
    return mean


def _distances(heights: Int32, widths: Int32, ratio: float) -> Int32:
    """Boundary width of every mask from its own size."""
    known: dict[tuple[int, int], int] = {(0, 0): 0}
    out = np.zeros(len(heights), dtype=np.int32)
    for i, size in enumerate(zip(heights.tolist(), widths.tolist(), strict=True)):
        if size not in known:
            known[size] = boundary_distance(*size, ratio)
        out[i] = known[size]
    return out
