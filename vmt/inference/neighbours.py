"""Masks of several objects side by side: no overlap and no gap that was not there before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from vmt.inference.window_votes import Vote

BoolArray = npt.NDArray[np.bool_]

#: Width of the widest gap that is closed, in pixels.
GAP_PX = 4


def settle_borders(masks: BoolArray, coarse: BoolArray, votes: Sequence[Vote | None]) -> None:
    """Decide, in place, about pixels that refined masks of a frame contest or lost between them.

    Of two objects that share a pixel which their coarse masks did not share, the one with the
    higher probability keeps it. A pixel between two objects whose coarse masks touched, which was
    one's and is no one's any more, goes likewise to the more probable one.

    Args:
        masks: (N, H, W), refined.
        coarse: (N, H, W), as given.
        votes: N, of each tracklet; None: it was not refined.
    """
    boxes = [_box(new | old) for new, old in zip(masks, coarse, strict=True)]
    for a, b in combinations(range(len(masks)), 2):
        region = _common(boxes[a], boxes[b])
        if region is None:
            continue
        new, old = masks[(slice(None), *region)], coarse[(slice(None), *region)]
        first = _probability(votes[a], old[a], region) >= _probability(votes[b], old[b], region)
        contested = new[a] & new[b] & ~(old[a] & old[b])
        new[a] &= ~contested | first
        new[b] &= ~contested | ~first
        if _grown(old[a], 1)[old[b]].any():
            lost = _between(new[a], new[b]) & (old[a] | old[b]) & ~new.any(0)
            new[a] |= lost & first
            new[b] |= lost & ~first


def _box(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """Rows and columns of a mask and one pixel around it; None of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return top, int(rows[-1]) + 2, left, int(columns[-1]) + 2


def _common(
    a: tuple[int, int, int, int] | None, b: tuple[int, int, int, int] | None
) -> tuple[slice, slice] | None:
    """Rows and columns that two boxes share, and ``GAP_PX`` around; None where they share none."""
    if a is None or b is None:
        return None
    top, bottom, left, right = max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])
    if top >= bottom or left >= right:
        return None
    rows = slice(max(top - GAP_PX, 0), bottom + GAP_PX)
    return rows, slice(max(left - GAP_PX, 0), right + GAP_PX)


def _probability(
    vote: Vote | None, coarse: BoolArray, region: tuple[slice, slice]
) -> npt.NDArray[np.float32]:
    """Of the object in a region: what the network says where it looked, else the coarse mask."""
    found = coarse.astype(np.float32)
    if vote is None:
        return found
    rows, columns = (
        slice(max(own.start, asked.start), min(own.stop, asked.stop))
        for own, asked in zip((vote.rows, vote.columns), region, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return found

    def within(corner: tuple[slice, slice]) -> tuple[slice, slice]:
        (y, x) = corner
        return (
            slice(rows.start - y.start, rows.stop - y.start),
            slice(columns.start - x.start, columns.stop - x.start),
        )

    here, there = within(region), within((vote.rows, vote.columns))
    found[here] = np.where(vote.looked_at[there], vote.probability[there], found[here])
    return found


def _between(a: BoolArray, b: BoolArray) -> BoolArray:
    """Where a gap of at most ``GAP_PX`` is, with both masks near."""
    kernel = np.ones((GAP_PX + 1, GAP_PX + 1), np.uint8)
    closed = np.asarray(cv2.morphologyEx((a | b).astype(np.uint8), cv2.MORPH_CLOSE, kernel))
    return closed.view(np.bool_) & _grown(a, GAP_PX) & _grown(b, GAP_PX)


def _grown(mask: BoolArray, by: int) -> BoolArray:
    """With ``by`` pixels more on every side."""
    kernel = np.ones((2 * by + 1, 2 * by + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)).view(np.bool_)
