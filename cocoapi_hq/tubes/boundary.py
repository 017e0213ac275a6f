"""Mask -> boundary region, as the HQ-YTVIS evaluator draws it.

``boundary(M) = M minus erode(M, d)``: the pixels of M within Chebyshev distance d of a pixel that
is not in M. Outside the frame counts as background. d is 2% of the frame diagonal, rounded half to
even, at least 1 (source: the evaluator released with VMT, arXiv:2207.14012; the paper leaves d
open). Scoring never builds these regions, see ``runs.TubeSums.tube_sums``; here they are for
people and tests.
"""

from __future__ import annotations

import math

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.runs import intervals_to_dense, open_masks

#: Share of the frame diagonal (source: the released evaluator).
DILATION_RATIO = 0.02


def boundary_distance(h: int, w: int, ratio: float = DILATION_RATIO) -> int:
    """Width d of the boundary region.

    Args:
        h: frame height in pixels.
        w: frame width in pixels.
        ratio: share of the diagonal, (0, 1].

    Returns:
        max(1, round half to even of ratio times the diagonal), in pixels.

    Raises:
        ScoringError: the ratio lies outside (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise ScoringError(f"dilation ratio {ratio} lies outside (0, 1].")
    return max(1, round(ratio * math.sqrt(h * h + w * w)))


def boundary_region(mask: rle.Rle, ratio: float = DILATION_RATIO) -> rle.Rle:
    """The boundary region of one mask.

    Args:
        mask: run lengths at full resolution.
        ratio: share of the frame diagonal.

    Returns:
        The region as run lengths of the same size; empty for an empty mask.

    Raises:
        ScoringError: the mask is corrupt or the ratio lies outside (0, 1].
    """
    checked = rle.validate(mask)
    h, w = checked["size"]
    masks = open_masks([checked["counts"]], np.array([h], np.int32), np.array([w], np.int32))
    runs, _ = masks.eroded_runs(0, boundary_distance(h, w, ratio))
    eroded = intervals_to_dense(runs, h, w)
    return rle.encode(rle.decode(checked) & (eroded == 0))


def boundary_area(mask: rle.Rle, ratio: float = DILATION_RATIO) -> int:
    """Pixels of the boundary region; arguments and errors as :func:`boundary_region`."""
    checked = rle.validate(mask)
    h, w = checked["size"]
    masks = open_masks([checked["counts"]], np.array([h], np.int32), np.array([w], np.int32))
    _, eroded = masks.eroded_runs(0, boundary_distance(h, w, ratio))
    return int(masks.areas[0]) - eroded
