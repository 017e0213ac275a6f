"""How much a pixel looks like the inside of a mask rather than like its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Statistics are taken on a grid this much coarser than the frame.
GRID = 4
#: Pixels around each within which the mask must agree for it to count fully.
AGREEMENT_PX = 6
#: Share with which all others count, so that thin things have statistics too.
DOUBTFUL = 0.02
#: Least variance of a colour, in the unit of the frames squared (1 = standard deviation of RGB).
MIN_VARIANCE = 0.02
#: Log likelihood ratio that counts as 1; larger ones saturate.
UNIT = 4.0


@torch.no_grad()
def colour_cues(frames: Tensor, share: Tensor, radii_px: Sequence[int]) -> Tensor:
    """Log likelihood ratio of local colour models, inside against outside.

    Colours on either side of the mask's contour, as far as they are sure to be on that side, are
    normal distributions, each channel on its own, in windows around every pixel. Ours; the idea of
    colour models on both sides is that of GrabCut (Rother et al., SIGGRAPH 2004).

    Args:
        frames: (T, 3, h, w), normalised; sides are multiples of ``GRID``.
        share: (T, 1, h, w) in [0, 1], the mask.
        radii_px: of the windows.

    Returns:
        (T, len(radii_px), h, w) in [-1, 1].
    """
    around = _mean_around(share, AGREEMENT_PX)
    inner = share * ((2 * around - 1).clamp(min=0) + DOUBTFUL)
    outer = (1 - share) * ((1 - 2 * around).clamp(min=0) + DOUBTFUL)
    cues = [share[:, :0]]
    sums = [_sums(frames, weight) for weight in (outer, inner)] if radii_px else []
    for radius in radii_px:
        cells = max(round(radius / GRID), 1)
        misfit = [_misfit(frames, side, cells) for side in sums]
        cues.append(torch.tanh((misfit[0] - misfit[1]) / (2 * UNIT)))
    return torch.cat(cues, dim=1)


def _sums(frames: Tensor, weight: Tensor) -> Tensor:
    """Mean weight, colour and squared colour of the cells of the grid, (T, 7, h', w')."""
    colours = weight * frames
    return F.avg_pool2d(torch.cat([weight, colours, colours * frames], dim=1), GRID)


def _misfit(frames: Tensor, sums: Tensor, cells: int) -> Tensor:
    """-2 log likelihood of every pixel under the local normal distributions, (T, 1, h, w)."""
    # The frame as a whole stands behind windows without any sure pixel.
    everywhere = sums.mean((2, 3), keepdim=True)
    local = _mean_around(sums, cells) + 1e-3 * everywhere + 1e-8
    total, first, second = local.split([1, 3, 3], dim=1)
    mean = first / total
    variance = (second / total - mean**2).clamp(min=0) + MIN_VARIANCE
    size = frames.shape[-2:]
    mean, variance = (
        F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (mean, variance)
    )
    return ((frames - mean) ** 2 / variance + variance.log()).sum(1, keepdim=True)


def _mean_around(values: Tensor, reach: int) -> Tensor:
    """Mean over the square that reaches so far on each side, as far as there is any."""
    side = 2 * reach + 1
    rows = F.avg_pool2d(values, (side, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, reach), count_include_pad=False)
