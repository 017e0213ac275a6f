"""Coarse masks in, sharp masks out: the refiner over videos of any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

#: Least IoU of a refined mask with its coarse mask; below it the frame is rejected (spec 5).
MIN_IOU = 0.5


@dataclass(frozen=True)
class RefinedFrame:
    """What became of the N tracklets in one frame.

    Args:
        masks: (N, H, W) bool; where a tracklet had no mask there is none.
        confidence: (N,) float in [0.5, 1], mean of max(p, 1 - p) over the pixels that were looked
            at; 1.0 where none was.
        changed_px: (N,) int64, pixels that differ from the coarse mask.
        rejected: (N,) bool, the result was thrown away (empty, or too far from the coarse mask),
            ``masks`` has the coarse one.
    """

    masks: BoolArray
    confidence: npt.NDArray[np.float64]
    changed_px: npt.NDArray[np.int64]
    rejected: BoolArray


class FrameRefiner(Protocol):
    """Anything that sharpens the masks of a video frame by frame."""

    def stream(
        self,
        frames: Iterable[ByteArray],
        masks: Iterable[BoolArray],
        *,
        accept: float = 0.65,
        window: int = 8,
    ) -> Iterator[RefinedFrame]:
        """Refine a video of any length in memory that does not grow with it.

        Args:
            frames: (H, W, 3) uint8 RGB, all of one size.
            masks: (N, H, W) bool per frame, as many as frames; row n is the same tracklet
                throughout, all False where it is absent or must not be touched.
            accept: confidence above which a pixel takes its new label; below it the coarse one
                stays.
            window: frames refined together.

        Yields:
            One result per frame, in order, as soon as its windows are done.

        Raises:
            ValueError: sizes or counts disagree.
        """
        ...


def refine_all(
    refiner: FrameRefiner, frames: Sequence[ByteArray], masks: BoolArray
) -> list[RefinedFrame]:
    """``stream`` over masks (N, T, H, W) that are in memory."""
    return list(refiner.stream(frames, (masks[:, t] for t in range(masks.shape[1]))))
