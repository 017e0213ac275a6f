"""From which given mask a tracklet reaches a frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


class Plan:
    """Every frame of a tracklet comes from the nearest frame with a given mask.

    Of two that are as near, from the earlier one: forwards. Every mask is thus propagated once.

    Args:
        given: frame -> (N, H, W), a mask without a pixel is not given.
    """

    def __init__(self, given: Mapping[int, BoolArray]) -> None:
        self._frames: list[list[int]] = []
        for t in sorted(given):
            masks = given[t]
            self._frames = self._frames or [[] for _ in masks]
            for n in np.flatnonzero(masks.any((1, 2))).tolist():
                self._frames[n].append(t)

    @property
    def empty(self) -> bool:
        """There is no mask."""
        return not any(self._frames)

    def given(self, t: int) -> list[int]:
        """The tracklets that have a mask in a frame."""
        return [n for n, frames in enumerate(self._frames) if self._nearest(frames, t) == t]

    def along(self, t: int, *, forwards: bool) -> list[int]:
        """The tracklets whose mask of a frame comes from an earlier frame, or from a later one."""
        way = 1 if forwards else -1
        nearest = [self._nearest(frames, t) for frames in self._frames]
        return [n for n, a in enumerate(nearest) if a is not None and way * (t - a) > 0]

    @property
    def again(self) -> int:
        """How many of the first frames are wanted backwards."""
        last = 0
        for frames in self._frames:
            begins = [b for a, b in pairwise(frames) if b - a > 2]
            begins += frames[:1] if frames and frames[0] > 0 else []
            last = max([last, *(b + 1 for b in begins)])
        return last

    @staticmethod
    def _nearest(frames: list[int], t: int) -> int | None:
        k = bisect_right(frames, t)
        near = frames[max(k - 1, 0) : k + 1]
        return min(near, key=lambda a: (abs(t - a), a), default=None)
