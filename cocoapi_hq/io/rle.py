"""The only run-length codec of the tree: a typed, checked wrapper over pycocotools' coding.

A run-length mask is ``{"size": [h, w], "counts": text}``: runs down the columns, x by x, the first
run is background (it may be 0 long), coded as COCO's text (six bits per character, every run from
the fourth on as the difference to the run two before it). Nothing reaches pycocotools unchecked:
its C code trusts the runs to fill the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as _coco

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import native
from cocoapi_hq.io.fields import is_int, short

#: Frames beyond this are refused: positions are kept in 32 bits.
MAX_PIXELS = 2**31 - 1

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Rle(TypedDict):
    """One mask: ``size`` is [h, w] in pixels, ``counts`` is COCO's text coding."""

    size: list[int]
    counts: str


def check_size(size: object, where: str = "size") -> tuple[int, int]:
    """Check the ``size`` of a mask.

    Args:
        size: what stands in the file.
        where: the place, for the message.

    Returns:
        (h, w), both at least 1.

    Raises:
        ScoringError: not two positive integers, or more pixels than 32 bits can count.
    """
    if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
        raise ScoringError(f"{where}: size is {short(size)}; give two integers [height, width].")
    if not (is_int(size[0]) and is_int(size[1])) or size[0] < 1 or size[1] < 1:
        raise ScoringError(f"{where}: size is {short(size)}; give two positive integers [h, w].")
    h, w = int(size[0]), int(size[1])
    if h * w > MAX_PIXELS:
        raise ScoringError(f"{where}: size [{h}, {w}] has more than {MAX_PIXELS} pixels.")
    return h, w


def counts_to_runs(text: str | bytes, where: str = "counts") -> IntArray:
    """Decode COCO's text into run lengths.

    Args:
        text: the ``counts`` of a mask.
        where: the place, for the message.

    Returns:
        (R,) int64 run lengths, background first. Not checked against a frame size.

    Raises:
        ScoringError: a character outside the code, a number cut off at the end, a negative run.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise ScoringError(
            f"{where}: counts {short(text)} hold characters outside the code."
        ) from None
    code = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if code.size == 0:
        raise ScoringError(f"{where}: counts are empty; write null for a frame without the object.")
    if raw[:2] in (b"b'", b'b"') and raw[-1:] == raw[1:2] and len(raw) > 2:
        raise ScoringError(
            f"{where}: counts {short(text)} are bytes that Python's str() turned into text; write "
            "counts.decode() instead of str(counts)."
        )
    if raw != raw.strip():
        raise ScoringError(
            f"{where}: counts {short(text)} begin or end with white space; strip it."
        )
    if int(code.min()) < 0 or int(code.max()) > 63:
        raise ScoringError(f"{where}: counts {short(text)} hold characters outside the code.")
    last = (code & 0x20) == 0
    if not last[-1]:
        raise ScoringError(f"{where}: counts {short(text)} end in the middle of a number.")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if int(digits.max()) > 7:
        raise ScoringError(f"{where}: counts {short(text)} hold a number beyond 32 bits.")
    shift = 5 * (np.arange(code.size) - np.repeat(starts, digits))
    values = np.add.reduceat((code & 0x1F) << shift, starts)
    values -= np.where((code[ends] & 0x10) != 0, np.int64(1) << (5 * digits), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if int(values.min()) < 0:
        raise ScoringError(f"{where}: counts {short(text)} hold a negative run.")
    return values


def check_runs(runs: IntArray, h: int, w: int, where: str = "counts") -> None:
    """Raise ScoringError unless the runs fill a frame of (h, w) exactly."""
    total = int(runs.sum())
    if total != h * w:
        raise ScoringError(
            f"{where}: the runs cover {total} pixels, but size [{h}, {w}] has {h * w}; "
            "the mask is cut off or its size is wrong."
        )


def from_counts(counts: Sequence[int], h: int, w: int, where: str = "counts") -> Rle:
    """Compress a list of run lengths.

    Args:
        counts: run lengths, background first, in pixels.
        h: frame height in pixels.
        w: frame width in pixels.
        where: the place, for the message.

    Returns:
        The mask as text.

    Raises:
        ScoringError: a run is no integer or negative, or the runs do not fill the frame.
    """
    if not set(map(type, counts)) <= {int}:
        bad = [n for n in counts if not is_int(n)]
        if bad:
            raise ScoringError(f"{where}: run length {short(bad[0])} is not an integer.")
        counts = [int(n) for n in counts]
    if len(counts) and (min(counts) < 0 or max(counts) > MAX_PIXELS):
        wrong = min(counts) if min(counts) < 0 else max(counts)
        raise ScoringError(f"{where}: run length {short(wrong)} lies outside [0, {MAX_PIXELS}].")
    total = sum(counts)
    if total != h * w:
        raise ScoringError(
            f"{where}: the runs cover {total} pixels, but size [{h}, {w}] has {h * w}; "
            "the mask is cut off or its size is wrong."
        )
    return {"size": [h, w], "counts": _to_text(counts, h, w)}


def _to_text(counts: Sequence[int], h: int, w: int) -> str:
    library = native.kernel()
    if library is None:
        coded = _coco.frPyObjects({"size": [h, w], "counts": list(counts)}, h, w)
        return str(coded["counts"].decode("ascii"))
    values = np.array(counts, dtype=np.int64)
    out = np.empty(7 * len(values), dtype=np.uint8)
    used = library.hq_counts_to_text(values.ctypes.data, len(values), out.ctypes.data)
    return out[:used].tobytes().decode("ascii")


def split_rings(
    polygons: Sequence[Any], where: str = "polygon"
) -> tuple[list[list[float]], list[int]]:
    """Rings that enclose something, and the places of those that do not.

    Clicks that were not meant leave rings of one or two points, or of no area, beside good ones;
    they say nothing about a mask.

    Args:
        polygons: rings ``[x0, y0, x1, y1, ...]`` in pixels; or the numbers of one ring.
        where: the place, for the message.

    Returns:
        The good rings, and the places in ``polygons`` of the others, ascending.

    Raises:
        ScoringError: no ring at all, an odd count, or a value that is not a finite number within
            100,000 pixels of the frame.
    """
    if len(polygons) and all(_is_number(value) for value in polygons):
        polygons = [polygons]
    if not len(polygons):
        raise ScoringError(f"{where}: no ring; write null for a frame without the object.")
    good: list[list[float]] = []
    idle: list[int] = []
    for k, ring in enumerate(polygons):
        if not isinstance(ring, (list, tuple, np.ndarray)) or len(ring) % 2:
            raise ScoringError(
                f"{where}[{k}]: {short(ring)} is no ring; give x0, y0, x1, y1, ... of at least "
                "three points."
            )
        for value in ring:
            if not _is_number(value) or not abs(value) <= 1e5:
                raise ScoringError(f"{where}[{k}]: {short(value)} is no coordinate in pixels.")
        points = [float(value) for value in ring]
        if len(points) < 6 or not _has_area(points):
            idle.append(k)
        else:
            good.append(points)
    return good, idle


def all_outside(rings: Sequence[Sequence[float]], size: Sequence[int]) -> bool:
    """True where every ring lies beside the frame: drawn on another size, most likely.

    Args:
        rings: as ``split_rings`` returns them.
        size: (h, w) in pixels.
    """
    return bool(rings) and all(
        max(ring[::2]) <= 0
        or max(ring[1::2]) <= 0
        or min(ring[::2]) >= size[1]
        or min(ring[1::2]) >= size[0]
        for ring in rings
    )


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool)


def _has_area(points: Sequence[float]) -> bool:
    """Whether not all points lie on one line."""
    xy = np.array(points).reshape(-1, 2)
    steps = xy - xy[0]
    x, y = steps[np.square(steps).sum(1).argmax()]
    return bool(np.abs(steps[:, 0] * y - steps[:, 1] * x).max() > 1e-6)


def from_polygons(polygons: Sequence[Any], h: int, w: int, where: str = "polygon") -> Rle:
    """Rasterise rings by COCO's rule and unite them.

    Args:
        polygons: see ``split_rings``; rings that enclose nothing add nothing.
        h: frame height in pixels.
        w: frame width in pixels.
        where: the place, for the message.

    Returns:
        The mask as text; an empty one if no ring encloses anything.

    Raises:
        ScoringError: see ``split_rings``.
    """
    rings, _ = split_rings(polygons, where)
    if not rings:
        return from_counts([h * w], h, w, where)
    merged = _coco.merge(_coco.frPyObjects(rings, h, w))
    return {"size": [h, w], "counts": merged["counts"].decode("ascii")}


def is_absent(mask: object) -> bool:
    """Whether this is one of the ways in which tools write "no mask in this frame".

    They are null, an empty list, object or text, rings without a point (``[[]]``), and run lengths
    without a run (``counts`` empty). Run lengths of background alone are a mask, without a pixel.
    """
    if mask is None:
        return True
    if isinstance(mask, (list, tuple)):
        return all(isinstance(ring, (list, tuple)) and not ring for ring in mask)
    if isinstance(mask, dict):
        counts = mask.get("counts")
        return not mask or (isinstance(counts, (str, bytes, list, tuple)) and not counts)
    return isinstance(mask, (str, bytes)) and not mask


def validate(mask: object, where: str = "mask", frame_size: tuple[int, int] | None = None) -> Rle:
    """Turn any accepted spelling of a mask into checked text coding.

    Args:
        mask: compressed (text or bytes) or uncompressed run lengths, or rings if ``frame_size`` is
            given.
        where: the place, for messages, e.g. ``results[3].segmentations[7]``.
        frame_size: (h, w) at which rings are rasterised; None refuses rings.

    Returns:
        The mask, safe for every function of this module.

    Raises:
        ScoringError: anything else; the message names ``where`` and the value.
    """
    if isinstance(mask, (list, tuple)):
        if frame_size is None:
            raise ScoringError(
                f"{where}: a polygon; give run lengths {{'size', 'counts'}} or null."
            )
        return from_polygons(mask, *frame_size, where=where)
    if not isinstance(mask, dict):
        raise ScoringError(f"{where}: {short(mask)} is no mask; give run lengths or null.")
    for key in ("size", "counts"):
        if key not in mask:
            raise ScoringError(f"{where}: the mask has no {key!r}.")
    h, w = check_size(mask["size"], where)
    counts = mask["counts"]
    if isinstance(counts, (list, tuple, np.ndarray)):
        return from_counts(list(counts), h, w, where)
    if not isinstance(counts, (str, bytes)):
        raise ScoringError(f"{where}: counts are {short(counts)}; give text or a list of runs.")
    check_runs(counts_to_runs(counts, where), h, w, where)
    return {"size": [h, w], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def encode(mask: npt.NDArray[Any]) -> Rle:
    """Code a dense mask.

    Args:
        mask: (H, W); everything that is not 0 belongs to the object.

    Returns:
        The mask as text.

    Raises:
        ScoringError: the array is not two-dimensional or is empty.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ScoringError(f"mask of shape {mask.shape}; give one frame (H, W) with pixels.")
    coded = _coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {
        "size": [int(mask.shape[0]), int(mask.shape[1])],
        "counts": coded["counts"].decode("ascii"),
    }


def decode(mask: Rle) -> BoolArray:
    """Dense (H, W) bool array of a mask; ScoringError if it does not fill its frame."""
    return np.asarray(_coco.decode(validate(mask)), dtype=np.bool_)


def area(mask: Rle) -> int:
    """Number of pixels of a mask."""
    runs = counts_to_runs(mask["counts"])
    check_runs(runs, *check_size(mask["size"]))
    return int(runs[1::2].sum())


def to_box(mask: Rle) -> tuple[int, int, int, int]:
    """Tight box (x, y, w, h) in pixels; all 0 for an empty mask."""
    x, y, w, h = (int(v) for v in _coco.toBbox(validate(mask)))
    return x, y, w, h


def union(masks: Sequence[Rle]) -> Rle:
    """Unite masks of one size; ScoringError when there is none or the sizes differ."""
    return _merge(masks, intersect=False)


def intersection(masks: Sequence[Rle]) -> Rle:
    """Intersect masks of one size; ScoringError when there is none or the sizes differ."""
    return _merge(masks, intersect=True)


def _merge(masks: Sequence[Rle], intersect: bool) -> Rle:
    checked = [validate(m, f"masks[{i}]") for i, m in enumerate(masks)]
    sizes = {tuple(m["size"]) for m in checked}
    if len(sizes) != 1:
        raise ScoringError(f"cannot merge masks of sizes {sorted(sizes)}; one size is needed.")
    merged = _coco.merge(checked, intersect)
    return {"size": list(checked[0]["size"]), "counts": merged["counts"].decode("ascii")}
