"""The rectangle of a clip's maps that holds all its trees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    rows, cols = (cells.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return Window(0, 1, 0, 1)
    top, bottom, left, right = torch.stack([rows[0], rows[-1], cols[0], cols[-1]]).tolist()
    return Window(
        max(top - margin, 0),
        min(bottom + 1 + margin, h),
        max(left - margin, 0),
        min(right + 1 + margin, w),
    )
