"""Run-length masks and bool tensors, one into the other; boxes and areas of masks.

The coding itself is ``cocoapi_hq.io.rle``, the only codec of the tree. Sizes are (h, w) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cocoapi_hq.io import rle
from cocoapi_hq.io.rle import Rle

__all__ = ["MaskCrop", "Rle", "decode_crop", "decode_masks", "encode_crop", "encode_masks"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskCrop:
    """The part of one frame's mask that holds every pixel of the object.

    Args:
        bits: (h, w) bool, True on the object; (0, 0) when the frame lacks it.
        y: row of the frame at which ``bits`` starts, in pixels.
        x: column of the frame at which ``bits`` starts, in pixels.
    """

    bits: BoolArray
    y: int = 0
    x: int = 0

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(np.count_nonzero(self.bits))

    def box_xyxy_px(self) -> tuple[int, int, int, int]:
        """Tight box (x1, y1, x2, y2), the far edge exclusive; all 0 without pixels."""
        rows = np.flatnonzero(self.bits.any(axis=1))
        if not rows.size:
            return 0, 0, 0, 0
        columns = np.flatnonzero(self.bits.any(axis=0))
        return (
            self.x + int(columns[0]),
            self.y + int(rows[0]),
            self.x + int(columns[-1]) + 1,
            self.y + int(rows[-1]) + 1,
        )


def encode_crop(crop: MaskCrop, size: tuple[int, int]) -> Rle:
    """Code a mask from the part that is not empty, without the dense frame.

    Args:
        crop: lies inside the frame.
        size: (h, w) of the frame.

    Returns:
        The mask as text, equal to coding the dense frame.

    Raises:
        ValueError: the crop reaches out of the frame.
    """
    height, width = size
    h, w = crop.bits.shape
    if crop.y < 0 or crop.x < 0 or crop.y + h > height or crop.x + w > width:
        raise ValueError(
            f"crop of {h}x{w} at row {crop.y}, column {crop.x} leaves a frame of {height}x{width}."
        )
    padded = np.zeros((w, h + 2), dtype=np.int8)
    padded[:, 1:-1] = crop.bits.T
    steps = np.diff(padded, axis=1)  # (w, h + 1): 1 where a run starts, -1 behind its end
    column, row = np.nonzero(steps > 0)
    starts = (column + crop.x) * height + row + crop.y
    column, row = np.nonzero(steps < 0)
    ends = (column + crop.x) * height + row + crop.y
    # A run that reaches the bottom goes on at the top of the next column.
    joins = np.flatnonzero(ends[:-1] == starts[1:])
    starts, ends = np.delete(starts, joins + 1), np.delete(ends, joins)
    edges = np.empty(2 * starts.size + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, height * width
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    counts = np.diff(edges).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return rle.from_counts(counts, height, width)


def decode_crop(mask: Rle) -> MaskCrop:
    """The smallest crop around a mask; (0, 0) bits when it is empty.

    Raises:
        ScoringError: the runs do not fill the frame.
    """
    height, width = rle.check_size(mask["size"])
    runs = rle.counts_to_runs(mask["counts"])
    rle.check_runs(runs, height, width)
    edges = np.cumsum(runs)
    starts, ends = edges[0:-1:2], edges[1::2]  # of the object's runs, down the columns
    keep = ends > starts
    starts, ends = starts[keep], ends[keep]
    if not starts.size:
        return MaskCrop(np.zeros((0, 0), dtype=np.bool_))
    x1, x2 = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    steps = np.zeros((x2 - x1) * height + 1, dtype=np.int8)
    steps[starts - x1 * height] = 1
    steps[ends - x1 * height] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_).reshape(x2 - x1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y1, y2 = int(rows[0]), int(rows[-1]) + 1
    return MaskCrop(np.ascontiguousarray(columns[:, y1:y2].T), y1, x1)


def encode_masks(masks: Tensor) -> list[Rle]:
    """Code dense masks.

    Args:
        masks: (N, H, W) bool, on any device.

    Returns:
        N masks as text, empty ones included.
    """
    return [rle.encode(mask) for mask in masks.cpu().numpy()]


def decode_masks(masks: Sequence[Rle], size: tuple[int, int] | None = None) -> Tensor:
    """Dense masks on the CPU.

    Args:
        masks: N masks of one size.
        size: (h, w) of the result when there is no mask; otherwise only checked.

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: the masks differ in size, or there is neither a mask nor a size.
    """
    sizes = {(mask["size"][0], mask["size"][1]) for mask in masks} | ({size} if size else set())
    if len(sizes) != 1:
        raise ValueError(f"masks of one size are needed, not of {sorted(sizes) or 'none at all'}.")
    (height, width) = next(iter(sizes))
    dense = np.zeros((len(masks), height, width), dtype=np.bool_)
    for target, mask in zip(dense, masks, strict=True):
        target[...] = rle.decode(mask)
    return torch.from_numpy(dense)
