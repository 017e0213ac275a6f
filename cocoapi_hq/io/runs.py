"""All masks of one video as runs: areas, boxes, and the sums behind tube IoU and boundary IoU.

Two implementations of one interface: :class:`NativeMasks` (the C++ kernel) and
:class:`NumpyMasks` (numpy, OpenCV for the erosion). Positions in a frame count down the columns,
``x * h + y``. Both give the same integers; ``tests/cocoapi_hq`` holds them against each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import native, rle

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

#: Values of ``status``: no mask in this frame, a sound mask, anything above is a corrupt one.
MISSING, PRESENT = 0, 1


class TubeSums(Protocol):
    """What the scoring code needs of the masks of one video.

    Attributes:
        areas: (N,) int64 pixels, 0 for missing and corrupt masks.
        boxes: (N, 4) int32 x0, y0, x1, y1 in pixels, ends exclusive, all 0 for empty masks.
        status: (N,) int8 ``MISSING``, ``PRESENT`` or above for corrupt masks.
    """

    areas: Int64
    boxes: Int32
    status: npt.NDArray[np.int8]

    def tube_sums(
        self, first_a: Int64, first_b: Int64, frames: Int32, distances: Int32 | None = None
    ) -> tuple[Int64, Int64, Int32]:
        """Sum intersections and unions over the frames of pairs of tubes.

        Args:
            first_a: (K,) index of the first mask of every left tube; its frames follow it.
            first_b: (K,) the same for the right tubes.
            frames: (K,) number of frames.
            distances: None sums over masks. (N,) pixels sums over boundary regions instead.

        Returns:
            Intersections (K,), unions (K,), and the number of frames (K,) that count in neither
            because the two masks differ in size.
        """

    def eroded_runs(self, index: int, distance: int) -> tuple[Int64, int]:
        """Runs (R, 2) begin, end of a mask eroded by a (2d+1) square, and their area."""


def open_masks(texts: Sequence[str], heights: Int32, widths: Int32) -> TubeSums:
    """Parse masks with the kernel if it is there, else with numpy.

    Args:
        texts: N texts in COCO coding, characters up to U+00FF; "" where there is no mask.
        heights: (N,) pixels, 0 where there is no mask.
        widths: (N,) pixels.

    Returns:
        The masks; corrupt ones are marked in ``status``, nothing is raised for them.
    """
    library = native.kernel()
    if library is None:
        return NumpyMasks(texts, heights, widths)
    return NativeMasks(library, texts, heights, widths)


def _pointer(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class NativeMasks:
    """The masks of one video inside the C++ kernel; eroded runs are kept there once made."""

    def __init__(
        self, library: ctypes.CDLL, texts: Sequence[str], heights: Int32, widths: Int32
    ) -> None:
        n = len(texts)
        self._library = library
        self._handle: int | None = None
        self.areas: Int64 = np.zeros(n, dtype=np.int64)
        self.boxes: Int32 = np.zeros((n, 4), dtype=np.int32)
        self.status: npt.NDArray[np.int8] = np.zeros(n, dtype=np.int8)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=n)
        heights = np.ascontiguousarray(heights, dtype=np.int32)
        widths = np.ascontiguousarray(widths, dtype=np.int32)
        self._handle = library.hq_store_new(
            "".join(texts).encode("latin-1"),
            _pointer(lengths),
            n,
            _pointer(heights),
            _pointer(widths),
            _pointer(self.areas),
            _pointer(self.boxes),
            _pointer(self.status),
        )
        if not self._handle:
            raise MemoryError("no memory for the masks of one video")

    def __del__(self) -> None:
        if self._handle:
            self._library.hq_store_free(self._handle)
            self._handle = None

    def tube_sums(
        self, first_a: Int64, first_b: Int64, frames: Int32, distances: Int32 | None = None
    ) -> tuple[Int64, Int64, Int32]:
        """Intersections (K,), unions (K,) and frames (K,) whose masks differ in size."""
        pairs = len(first_a)
        inter, union = np.zeros(pairs, dtype=np.int64), np.zeros(pairs, dtype=np.int64)
        vanished = np.zeros(pairs, dtype=np.int32)
        first_a = np.ascontiguousarray(first_a, dtype=np.int64)
        first_b = np.ascontiguousarray(first_b, dtype=np.int64)
        frames = np.ascontiguousarray(frames, dtype=np.int32)
        if distances is not None:
            distances = np.ascontiguousarray(distances, dtype=np.int32)
        failed = self._library.hq_tube_sums(
            self._handle,
            None if distances is None else _pointer(distances),
            pairs,
            _pointer(first_a),
            _pointer(first_b),
            _pointer(frames),
            _pointer(inter),
            _pointer(union),
            _pointer(vanished),
        )
        if failed:
            raise MemoryError("no memory for the eroded masks of one video")
        return inter, union, vanished

    def eroded_runs(self, index: int, distance: int) -> tuple[Int64, int]:
        """Runs (R, 2) of the eroded mask, and their area."""
        area = ctypes.c_int64()
        address = ctypes.addressof(area)
        count = self._library.hq_eroded(self._handle, index, distance, 0, None, address)
        if count < 0:
            raise MemoryError("no memory for an eroded mask")
        runs = np.zeros((count, 2), dtype=np.uint32)
        self._library.hq_eroded(self._handle, index, distance, count, _pointer(runs), address)
        return runs.astype(np.int64), int(area.value)


def _to_intervals(counts: Int64) -> Int64:
    """Run lengths -> (R, 2) begin, end of the non-empty foreground runs."""
    ends = np.cumsum(counts)
    runs = np.stack([ends[0::2][: len(ends[1::2])], ends[1::2]], axis=1)
    return runs[runs[:, 1] > runs[:, 0]]  # (R, 2)


def _common(a: Int64, b: Int64) -> int:
    """Pixels that two sorted lists of intervals share."""
    if not len(a) or not len(b):
        return 0
    lengths = b[:, 1] - b[:, 0]
    before = np.concatenate([[0], np.cumsum(lengths)])

    def covered(x: Int64) -> Int64:
        """Pixels of b in front of position x."""
        k = np.searchsorted(b[:, 0], x, side="right") - 1
        inside = np.minimum(x - b[k, 0], lengths[k])
        return np.where(k >= 0, before[k] + inside, 0)

    return int((covered(a[:, 1]) - covered(a[:, 0])).sum())


def intervals_to_dense(runs: Int64, h: int, w: int) -> npt.NDArray[np.uint8]:
    """Intervals (R, 2) in column-major order -> (h, w) uint8 of 0 and 1."""
    steps = np.zeros(h * w + 1, dtype=np.int8)
    np.add.at(steps, runs[:, 0], 1)
    np.add.at(steps, runs[:, 1], -1)
    flat = np.cumsum(steps[:-1], dtype=np.int8).astype(np.uint8)
    return flat.reshape(w, h).T


def _dense_to_intervals(mask: npt.NDArray[np.uint8]) -> Int64:
    flat = np.concatenate([[0], mask.T.reshape(-1), [0]]).astype(np.int8)
    steps = np.diff(flat)
    return np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)], axis=1)


class NumpyMasks:
    """The same without compiled code: intervals in numpy, erosion of the box crop in OpenCV."""

    def __init__(self, texts: Sequence[str], heights: Int32, widths: Int32) -> None:
        n = len(texts)
        self._size = np.stack([heights, widths], axis=1).astype(np.int64)
        self._runs: list[Int64] = []
        self._eroded: dict[tuple[int, int], tuple[Int64, int]] = {}
        self.areas: Int64 = np.zeros(n, dtype=np.int64)
        self.boxes: Int32 = np.zeros((n, 4), dtype=np.int32)
        self.status: npt.NDArray[np.int8] = np.zeros(n, dtype=np.int8)
        empty: Int64 = np.zeros((0, 2), dtype=np.int64)
        for i, text in enumerate(texts):
            h, w = int(self._size[i, 0]), int(self._size[i, 1])
            self._runs.append(empty)
            if h == 0:
                continue
            try:
                counts = rle.counts_to_runs(text)
                rle.check_runs(counts, h, w)
            except ScoringError:
                self.status[i] = PRESENT + 1
                continue
            self.status[i] = PRESENT
            self._set(i, _to_intervals(counts), h)

    def _set(self, i: int, runs: Int64, h: int) -> None:
        self._runs[i] = runs
        if not len(runs):
            return
        self.areas[i] = int((runs[:, 1] - runs[:, 0]).sum())
        first, last = runs[:, 0] // h, (runs[:, 1] - 1) // h
        over = bool((first != last).any())
        low = 0 if over else int((runs[:, 0] - first * h).min())
        high = h if over else int((runs[:, 1] - first * h).max())
        self.boxes[i] = (int(first[0]), low, int(last[-1]) + 1, high)

    def tube_sums(
        self, first_a: Int64, first_b: Int64, frames: Int32, distances: Int32 | None = None
    ) -> tuple[Int64, Int64, Int32]:
        """Intersections (K,), unions (K,) and frames (K,) whose masks differ in size."""
        pairs = len(first_a)
        inter, union = np.zeros(pairs, dtype=np.int64), np.zeros(pairs, dtype=np.int64)
        vanished = np.zeros(pairs, dtype=np.int32)
        for k in range(pairs):
            for t in range(int(frames[k])):
                a, b = int(first_a[k]) + t, int(first_b[k]) + t
                both = self.status[a] == PRESENT and self.status[b] == PRESENT
                if both and (self._size[a] != self._size[b]).any():
                    vanished[k] += 1
                    continue
                meet = both and self._boxes_meet(a, b)
                shared, area_a, area_b = self._frame(a, b, meet, distances)
                inter[k] += shared
                union[k] += area_a + area_b - shared
        return inter, union, vanished

    def _frame(self, a: int, b: int, meet: bool, distances: Int32 | None) -> tuple[int, int, int]:
        """Shared pixels and both areas of one frame, of masks or of boundary regions."""
        area_a, area_b = int(self.areas[a]), int(self.areas[b])
        shared = _common(self._runs[a], self._runs[b]) if meet else 0
        if distances is None:
            return shared, area_a, area_b
        runs_a, eroded_a = self.eroded_runs(a, int(distances[a]))
        runs_b, eroded_b = self.eroded_runs(b, int(distances[b]))
        if meet:
            shared -= _common(runs_a, self._runs[b]) + _common(self._runs[a], runs_b)
            shared += _common(runs_a, runs_b)
        return shared, area_a - eroded_a, area_b - eroded_b

    def _boxes_meet(self, a: int, b: int) -> bool:
        ax0, ay0, ax1, ay1 = self.boxes[a]
        bx0, by0, bx1, by1 = self.boxes[b]
        return bool(ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1)

    def eroded_runs(self, index: int, distance: int) -> tuple[Int64, int]:
        """Runs (R, 2) of the eroded mask, and their area; made once."""
        key = (index, distance)
        if key not in self._eroded:
            self._eroded[key] = self._erode(index, distance)
        return self._eroded[key]

    def _erode(self, index: int, distance: int) -> tuple[Int64, int]:
        nothing: Int64 = np.zeros((0, 2), dtype=np.int64)
        x0, y0, x1, y1 = (int(v) for v in self.boxes[index])
        side = 2 * distance + 1
        if x1 - x0 < side or y1 - y0 < side:
            return nothing, 0
        h = int(self._size[index, 0])
        # The columns of the box are one contiguous stretch of positions.
        columns = intervals_to_dense(self._runs[index] - x0 * h, h, x1 - x0)
        crop = np.ascontiguousarray(columns[y0:y1])
        square = np.ones((side, side), dtype=np.uint8)
        small = cv2.erode(crop, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        full = np.zeros_like(columns)
        full[y0:y1] = small
        return _dense_to_intervals(full) + x0 * h, int(small.sum())
