"""The rectangle of a clip's maps that holds all its trees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Numbers of the finest map up to which a GPU computes it whole: waiting for the window costs more.
GPU_VALUES = 2**23


def is_worth_it(values: int, device: torch.device) -> bool:
    """Whether finer maps are computed in a window alone, for whose sides the host waits.

    Args:
        values: numbers of the finest map.
        device: a CPU waits for nothing, and is always spared what lies outside.
    """
    return device.type == "cpu" or values > GPU_VALUES


@dataclass(frozen=True)
class Window:
    """Cells [top, bottom) x [left, right) of the coarsest level, and everything below them.

    Args:
        top: first row.
        bottom: row after the last.
        left: first column.
        right: column after the last.
    """

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, maps: Tensor, level: int) -> Tensor:
        """(..., h, w) maps of a level, 0 the coarsest -> the part inside, a view."""
        rows = slice(self.top << level, self.bottom << level)
        return maps[..., rows, self.left << level : self.right << level]


@torch.no_grad()
def window_around(marked: Tensor, margin: int) -> Window:
    """The smallest window with all marked cells and ``margin`` cells around them, cut to the map.

    Args:
        marked: (..., h, w) bool at the coarsest level.
        margin: cells.

    Returns:
        The window; the first cell alone when nothing is marked.
    """
    h, w = marked.shape[-2:]
    cells = marked.reshape(-1, h, w).any(0)
    lines = torch.cat([cells.any(1), cells.any(0)]).tolist()  # the one wait for the device
    rows, cols = (
        [place for place, some in enumerate(part) if some] for part in (lines[:h], lines[h:])
    )
    if not rows:
        return Window(0, 1, 0, 1)
    return Window(
        max(rows[0] - margin, 0),
        min(rows[-1] + 1 + margin, h),
        max(cols[0] - margin, 0),
        min(cols[-1] + 1 + margin, w),
    )
