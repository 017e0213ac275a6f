"""Where a mask loses detail when its resolution falls: the ground truth of incoherent regions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

#: Residue of a down-up round trip above which a cell is incoherent; a mask is 0 or 1 (VMT code).
RESIDUE_THRESHOLD = 0.01
RegionRule = Literal["residue", "mixed"]


@torch.no_grad()
def incoherent_region(masks: Tensor, stride: int, rule: RegionRule = "residue") -> Tensor:
    """Mark the cells of a coarser grid that cannot represent a full-resolution mask.

    Sides that ``stride`` does not divide are continued by their last row and column, so that the
    frame's edge is no contour.

    Args:
        masks: (..., H, W) bool at full resolution.
        stride: pixels per cell, at least 2; for "mixed" a power of two.
        rule: "residue", the routine left in the released VMT code: bilinear down and up again,
            absolute difference, bilinear down, above 0.01. No antialiasing, so each step down
            averages the 2x2 pixels at a cell's centre; reaches about one cell past every mixed
            one. "mixed", the definition of Mask Transfiner (arXiv:2111.13673, section 3.1),
            narrower: halving the resolution once more by nearest neighbour and doubling it again
            changes a pixel of the cell, which is so where its 2x2 block holds both labels.

    Returns:
        (..., ceil(H / stride), ceil(W / stride)) bool.

    Raises:
        ValueError: another rule, or a stride the rule has no meaning for.
    """
    if stride < 2 or (rule == "mixed" and stride & (stride - 1)):
        raise ValueError(f"incoherent_region: stride {stride} does not fit rule {rule!r}.")
    H, W = masks.shape[-2:]
    values = masks.reshape(-1, 1, H, W).float()
    values = F.pad(values, (0, -W % stride, 0, -H % stride), mode="replicate")
    if rule == "residue":
        region = _residue(values, stride) > RESIDUE_THRESHOLD
    elif rule == "mixed":
        halved = values[..., :: stride // 2, :: stride // 2]  # the grid twice as fine as the cells
        region = F.max_pool2d(halved, 2) != -F.max_pool2d(-halved, 2)
    else:
        raise ValueError(f"incoherent_region: rule must be 'residue' or 'mixed', not {rule!r}.")
    return region.reshape(*masks.shape[:-2], *region.shape[-2:])


def _residue(values: Tensor, stride: int) -> Tensor:
    full = values.shape[-2:]
    coarse = (full[0] // stride, full[1] // stride)
    down = F.interpolate(values, coarse, mode="bilinear", align_corners=False)
    up = F.interpolate(down, full, mode="bilinear", align_corners=False)
    return F.interpolate((values - up).abs(), coarse, mode="bilinear", align_corners=False)


@torch.no_grad()
def dilate(masks: Tensor, radius: int) -> Tensor:
    """Grow masks by ``radius`` cells in all eight directions.

    Args:
        masks: (..., H, W) bool.
        radius: cells, at least 0.

    Returns:
        (..., H, W) bool.
    """
    if radius == 0:
        return masks
    H, W = masks.shape[-2:]
    grown = masks.reshape(-1, 1, H, W).float()
    # one axis after the other: a square is the sum of its sides, at 2(2r+1) reads for (2r+1)^2
    grown = F.max_pool2d(grown, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    grown = F.max_pool2d(grown, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return grown.reshape(masks.shape) > 0
