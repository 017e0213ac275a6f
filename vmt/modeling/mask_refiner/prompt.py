"""Masks that are given, as a refiner reads them: logits, levels, and cells near the contour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.refiners.base import RefinerOutput
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput

#: Strides of the quadtree's levels, in pixels, and the coarsest.
STRIDES = (8, 4, 2)
STRIDE = STRIDES[0]
#: Logit of a cell that lies wholly inside the given mask
#: (docs/reference/released_code.md#given-mask).
SURE = 4.0
#: Stride-8 cells that are refined beyond those of the contour itself, whatever the refiner's own
#: detector says; on finer levels as many pixels.
BAND_CELLS = 1


@dataclass(frozen=True)
class MaskPrompt:
    """Given masks in place of a mask head's.

    Args:
        coarse_logits: see ``RefinerInput``, and so are the others.
        coarse_levels: of all levels, or none.
        given: of one level or of all.
    """

    coarse_logits: Tensor
    coarse_levels: tuple[Tensor, ...]
    given: tuple[Tensor, ...]


def prompt_of(share: Tensor, levels: int, second: Tensor | None = None) -> MaskPrompt:
    """The prompt of one tracklet.

    Args:
        share: (T, 1, H, W) in [0, 1], share of each pixel that the mask covers; sides are multiples
            of ``STRIDE``.
        levels: of the quadtree, from the coarsest, that know the mask at their own resolution: 1,
            or all 3.
        second: another opinion about the same mask; its contour is refined too, and so is whatever
            the two disagree about.

    Returns:
        Tensors with N = 1.
    """
    logits = coarse_logits(share[None, :, 0])
    fine = STRIDES[:levels]
    given = [contour_band(share, BAND_CELLS * STRIDE // s, s)[None] for s in fine]
    if second is not None:
        differ = ((share > 0.5) != (second > 0.5)).float()
        for level, stride in enumerate(fine):
            other = contour_band(second, BAND_CELLS * STRIDE // stride, stride)
            given[level] = given[level] | other | (F.max_pool2d(differ, stride)[:, 0] > 0)
    coarse = [coarse_logits(share[None, :, 0], s).sigmoid() for s in fine] if levels > 1 else []
    return MaskPrompt(logits, tuple(coarse), tuple(given))


def join_tracklets(prompts: Sequence[MaskPrompt]) -> MaskPrompt:
    """Prompts of one tracklet each -> of all of them, in their order."""
    coarse = zip(*(prompt.coarse_levels for prompt in prompts), strict=True)
    given = zip(*(prompt.given for prompt in prompts), strict=True)
    return MaskPrompt(
        torch.cat([prompt.coarse_logits for prompt in prompts]),
        tuple(torch.cat(level) for level in coarse),
        tuple(torch.cat(level) for level in given),
    )


def coarse_logits(share: Tensor, stride: int = STRIDE) -> Tensor:
    """What stands in for the mask head's masks.

    Args:
        share: (..., T, H, W) in [0, 1], share of each pixel that the mask covers.
        stride: pixels per cell.

    Returns:
        (..., T, h, w) in [-SURE, SURE], linear in the share of each cell.
    """
    return (2 * F.avg_pool2d(share, stride) - 1) * SURE


def contour_band(share: Tensor, cells: int, stride: int = STRIDE) -> Tensor:
    """Cells near the contour of given masks.

    Args:
        share: (T, 1, H, W) in [0, 1], sides multiples of ``stride``.
        cells: how far the band reaches beyond the contour's own cells.
        stride: pixels per cell.

    Returns:
        (T, h, w) bool.
    """
    low = -F.max_pool2d(-share, stride)
    mixed = ((F.max_pool2d(share, stride) > 0.5) & (low <= 0.5)).float()
    # A contour that runs along the edges of cells mixes none of them.
    right = F.pad((share[..., 1:] > 0.5) != (share[..., :-1] > 0.5), (0, 1)).float()
    below = F.pad((share[..., 1:, :] > 0.5) != (share[..., :-1, :] > 0.5), (0, 0, 0, 1)).float()
    crossed = F.max_pool2d(torch.maximum(right, below), stride)
    near = F.max_pool2d(torch.maximum(mixed, crossed), 2 * cells + 1, 1, cells)
    return near[:, 0] > 0


def looked_at_cells(given: Tensor, output: RefinerOutput) -> Tensor:
    """Stride-8 cells that a refiner worked on: those it was given, and those it found.

    Args:
        given: (N, T, h8, w8) bool, as in its input.
        output: of the same tracklets.

    Returns:
        (N, T, h8, w8) bool.
    """
    cells = given.clone()
    if isinstance(output, QuadtreeOutput):
        cells[output.tree.cells(output.tree.at_level(0))] = True
    return cells


def by_pixel(cells: Tensor) -> Tensor:
    """(..., h8, w8) -> (..., 8 * h8, 8 * w8)."""
    return cells.repeat_interleave(STRIDE, -2).repeat_interleave(STRIDE, -1)
