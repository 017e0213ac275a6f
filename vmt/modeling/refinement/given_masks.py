"""Refiners fed with masks that are given, not found: what they are told, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.refinement.base import RefinerOutput
from vmt.modeling.refinement.quadtree_criterion import QuadtreeOutput
from vmt.ops.crops import Place

#: Stride of the coarsest level, in pixels.
STRIDE = 8
#: Logit of a cell that lies wholly inside the given mask (spec 5).
SURE = 4.0


@dataclass(frozen=True)
class RefinedTube:
    """One tracklet of a window of frames, sharpened where it had a mask.

    Args:
        tracklet: which of those that were given.
        frames: T of the frames that were given, ascending.
        probability: (T, h, w) float in [0, 1] of rectangles, at the scale of the frames.
        looked_at: (T, h, w) bool, pixels below a root of the quadtree; others mean nothing.
        places: T, where the rectangles lie.
    """

    tracklet: int
    frames: list[int]
    probability: Tensor
    looked_at: Tensor
    places: list[Place]


@runtime_checkable
class TubeRefiner(Protocol):
    """A network that sharpens given masks."""

    @property
    def device(self) -> torch.device:
        """Where its inputs are wanted."""
        ...

    def refine_tubes(self, frames: Tensor, coarse: Tensor) -> Iterator[RefinedTube]:
        """Sharpen the tracklets of a window.

        Args:
            frames: (T, 3, H, W) uint8 RGB.
            coarse: (N, T, H, W) bool.

        Yields:
            At most one result per tracklet, about the frames in which it has a pixel; none for a
            tracklet without any, or of which nothing is known.
        """
        ...


def coarse_logits(share: Tensor) -> Tensor:
    """What stands in for the coarse head's masks.

    Args:
        share: (..., T, H, W) in [0, 1], share of each pixel that the mask covers.

    Returns:
        (..., T, h8, w8) in [-SURE, SURE], linear in the share of each cell.
    """
    return (2 * F.avg_pool2d(share, STRIDE) - 1) * SURE


def contour_band(share: Tensor, cells: int) -> Tensor:
    """Cells near the contour of given masks.

    Args:
        share: (T, 1, H, W) in [0, 1], sides multiples of ``STRIDE``.
        cells: how far the band reaches beyond the contour's own cells.

    Returns:
        (T, h8, w8) bool.
    """
    low = -F.max_pool2d(-share, STRIDE)
    mixed = ((F.max_pool2d(share, STRIDE) > 0.5) & (low <= 0.5)).float()
    # A contour that runs along the edges of cells mixes none of them.
    right = F.pad((share[..., 1:] > 0.5) != (share[..., :-1] > 0.5), (0, 1)).float()
    below = F.pad((share[..., 1:, :] > 0.5) != (share[..., :-1, :] > 0.5), (0, 0, 0, 1)).float()
    crossed = F.max_pool2d(torch.maximum(right, below), STRIDE)
    near = F.max_pool2d(torch.maximum(mixed, crossed), 2 * cells + 1, 1, cells)
    return near[:, 0] > 0


def looked_at_cells(roots: Tensor, output: RefinerOutput) -> Tensor:
    """Stride-8 cells that a refiner worked on: those it was given, and those it found.

    Args:
        roots: (N, T, h8, w8) bool, as in its input.
        output: of the same tracklets.

    Returns:
        (N, T, h8, w8) bool.
    """
    cells = roots.clone()
    if isinstance(output, QuadtreeOutput):
        cells[output.tree.cells(output.tree.level == 0)] = True
    return cells


def by_pixel(cells: Tensor) -> Tensor:
    """(..., h8, w8) -> (..., 8 * h8, 8 * w8)."""
    return cells.repeat_interleave(STRIDE, -2).repeat_interleave(STRIDE, -1)
