"""What the detector should mark: ground truth per level of the quadtree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.refiners.incoherent_region import incoherent_region

REGION_KINDS = ("incoherent", "mixed", "boundary")


@torch.no_grad()
def region_levels(
    masks: Tensor,
    strides: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    kind: str = "incoherent",
) -> list[Tensor]:
    """Cells of every level that are worth refining, and the cells above them.

    All kinds sample, so a thin part can be incoherent at H/2 and leave no trace at H/8, where its
    tree would have to start: 5% of the cells on real masks (docs/methods/vmt.md).

    Args:
        masks: (N, T, H, W) bool at full resolution, before padding.
        strides: pixels per cell of every level.
        sizes: (h, w) of the maps, at least (ceil(H / stride), ceil(W / stride)); padding on the
            right and below is no region.
        kind: where the level cannot represent the mask, "incoherent" by the routine left in the
            released code, "mixed" by Mask Transfiner's definition (see ``incoherent_region``); or
            "boundary", the cells on either side of the mask's contour (arXiv:2207.14012, Table 2
            compares).

    Returns:
        Per level (N, T, h, w) bool.

    Raises:
        ValueError: a map is too small for its masks.
    """
    levels = []
    for stride, (h, w) in zip(strides, sizes, strict=True):
        if kind == "boundary":
            region = boundary_region(masks, stride)
        else:
            region = incoherent_region(masks, stride, "mixed" if kind == "mixed" else "residue")
        missing = h - region.shape[-2], w - region.shape[-1]
        if min(missing) < 0:
            raise ValueError(
                f"masks of {masks.shape[-2]} x {masks.shape[-1]} pixels need "
                f"{region.shape[-2]} x {region.shape[-1]} cells at stride {stride}, not {h} x {w}."
            )
        levels.append(F.pad(region, (0, missing[1], 0, missing[0])))
    for coarse in range(len(levels) - 2, -1, -1):
        levels[coarse] = levels[coarse] | _above(levels[coarse + 1], levels[coarse])
    return levels


def _above(fine: Tensor, coarse: Tensor) -> Tensor:
    """Parents of the marked cells, in the shape of ``coarse``."""
    h, w = coarse.shape[-2:]
    cells = F.pad(fine.float(), (0, 2 * w - fine.shape[-1], 0, 2 * h - fine.shape[-2]))
    return F.max_pool2d(cells, 2) > 0


@torch.no_grad()
def boundary_region(masks: Tensor, stride: int) -> Tensor:
    """Cells of the resized mask with a cell of the other label among their eight neighbours.

    The frame's edge is no contour. A part of the mask that no cell centre hits leaves no trace,
    which is what sets it apart from the incoherent region.

    Args:
        masks: (..., H, W) bool.
        stride: pixels per cell; rows and columns stride // 2, stride // 2 + stride, ... are taken.

    Returns:
        (..., ceil(H / stride), ceil(W / stride)) bool.
    """
    H, W = masks.shape[-2:]
    values = masks.reshape(-1, 1, H, W).float()
    values = F.pad(values, (0, -W % stride, 0, -H % stride), mode="replicate")
    cells = values[..., stride // 2 :: stride, stride // 2 :: stride]
    high = F.max_pool2d(cells, 3, stride=1, padding=1)  # pads with minus infinity
    low = -F.max_pool2d(-cells, 3, stride=1, padding=1)
    return (high != low).reshape(*masks.shape[:-2], *cells.shape[-2:])
