"""A window that follows an object through a clip, to be cut out, worked on and put back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.utils.device import to_device

#: Sides of cut-outs are multiples of this, in pixels: whole cells of the coarsest feature map.
DIVISOR = 32
#: Small objects are enlarged at most so many times.
MAX_ZOOM = 2.0


@dataclass(frozen=True)
class Place:
    """Where a window and its frame overlap.

    Args:
        rows: of the frame.
        columns: of the frame.
        own_rows: of the window.
        own_columns: of the window.
    """

    rows: slice
    columns: slice
    own_rows: slice
    own_columns: slice


@dataclass(frozen=True)
class TubeCrop:
    """T windows of one size; they may reach beyond the frame.

    Args:
        top: (T,) int64, first row of each window in its frame, in pixels; may be negative.
        left: (T,) int64, first column.
        window: (h, w) of the windows in pixels of the frame.
        size: (h, w) of the cut-outs, multiples of ``DIVISOR``.
        frame_size: (H, W).
    """

    top: Tensor
    left: Tensor
    window: tuple[int, int]
    size: tuple[int, int]
    frame_size: tuple[int, int]

    def cut(
        self,
        values: Tensor,
        beyond: Tensor | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Cut out and resize, antialiased.

        Args:
            values: (T, C, H, W), any type.
            beyond: (C, 1, 1) float, what stands beyond the frame; None: 0.
            device: of the result, on which it is resized; None: that of ``values``.

        Returns:
            (T, C, *size) float32.
        """
        part = values.new_zeros((*values.shape[:2], *self.window))
        if beyond is not None:
            part = part + beyond
        for t, place in enumerate(self.places()):
            seen = values[t, :, place.rows, place.columns]
            part[t, :, place.own_rows, place.own_columns] = seen
        part = to_device(part, device or values.device).float()
        if self.window == self.size:
            return part
        return F.interpolate(part, self.size, mode="bilinear", antialias=True)

    def restore(self, values: Tensor) -> Tensor:
        """(T, *size) float -> (T, *window), at the scale of the frame."""
        if self.window == self.size:
            return values
        down = self.window[0] < self.size[0]
        return F.interpolate(values[:, None], self.window, mode="bilinear", antialias=down)[:, 0]

    def places(self) -> list[Place]:
        """Where each window lies."""
        found = []
        for corner in zip(self.top.tolist(), self.left.tolist(), strict=True):
            frame, own = [], []
            for start, side, limit in zip(corner, self.window, self.frame_size, strict=True):
                first, last = max(start, 0), min(start + side, limit)
                frame.append(slice(first, max(first, last)))
                own.append(slice(first - start, max(first, last) - start))
            found.append(Place(*frame, *own))
        return found


def follow(
    masks: Tensor, margin: float, min_margin_px: int, min_size: int, max_size: int
) -> TubeCrop:
    """Windows around an object, centred on its box in every frame.

    Args:
        masks: (T, H, W) bool, with at least one pixel in every frame.
        margin: space on each side as a share of the box's longer side.
        min_margin_px: least space on each side.
        min_size: objects whose window has a shorter longer side are enlarged.
        max_size: larger ones are made smaller; a multiple of ``DIVISOR``.

    Raises:
        ValueError: a frame without a pixel.
    """
    H, W = int(masks.shape[1]), int(masks.shape[2])
    lines = torch.cat([masks.any(2), masks.any(1)], 1).cpu().numpy()  # (T, H + W)
    if not lines.any(1).all():
        raise ValueError("follow: a frame shows nothing of the object.")
    ends = []
    for part in (lines[:, :H], lines[:, H:]):
        ends += [part.argmax(1), part.shape[1] - part[:, ::-1].argmax(1)]
    box = torch.from_numpy(np.stack(ends, 1))  # top, bottom, left, right
    height, width = (int((box[:, k + 1] - box[:, k]).max()) for k in (0, 2))
    space = 2 * max(min_margin_px, math.ceil(margin * max(height, width)))
    longer = max(height, width) + space
    scale = 1.0
    if longer > max_size:
        scale = max_size / longer
    elif longer < min_size:
        scale = min(min_size / longer, MAX_ZOOM)
    cells = [max(math.ceil((side + space) * scale / DIVISOR - 1e-6), 2) for side in (height, width)]
    size = (cells[0] * DIVISOR, cells[1] * DIVISOR)
    window = (round(size[0] / scale), round(size[1] / scale))
    top, left = (
        (box[:, k] + box[:, k + 1] - side).div(2, rounding_mode="floor")
        for k, side in zip((0, 2), window, strict=True)
    )
    return TubeCrop(top, left, window, size, (H, W))
