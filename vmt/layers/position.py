"""Sine position codes in two dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_features(position: Tensor, num_features: int) -> Tensor:
    """Interleaved sines (even) and cosines (odd) of positions in radians.

    Frequencies 10000^(2 floor(i/2) / n) (Attention Is All You Need, arXiv:1706.03762).

    Args:
        position: (...), float; in double the angles are, too.
        num_features: n, even.

    Returns:
        (..., n).
    """
    dtype = torch.promote_types(position.dtype, torch.float32)
    index = torch.arange(num_features, device=position.device, dtype=dtype)
    frequency = TEMPERATURE ** (2 * (index // 2) / num_features)
    angle = position[..., None] / frequency
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def sine_position_2d(valid: Tensor, num_features: int, cell_offset: float) -> Tensor:
    """Code of every cell from its place among the valid rows and columns.

    Args:
        valid: (B, H, W) bool, False on padding.
        num_features: channels per axis.
        cell_offset: subtracted from the 1-based place: 0.5 in the encoder of SeqFormer, 0 for the
            refinement tokens of the released VMT.

    Returns:
        (B, H, W, 2 * num_features): y features, then x features.
    """
    cells = valid.float()
    y = cells.cumsum(1)
    x = cells.cumsum(2)
    y = (y - cell_offset) / (y[:, -1:, :] + EPSILON) * (2 * math.pi)
    x = (x - cell_offset) / (x[:, :, -1:] + EPSILON) * (2 * math.pi)
    return torch.cat([sine_features(y, num_features), sine_features(x, num_features)], dim=-1)


def sine_position_of_cells(
    rows: Tensor, cols: Tensor, size: tuple[int, int], num_features: int, cell_offset: float
) -> Tensor:
    """``sine_position_2d`` of an unpadded map at chosen cells only.

    Args:
        rows: (P,) int64, from 0.
        cols: (P,) int64, from 0.
        size: (H, W) of the map.
        num_features: channels per axis.
        cell_offset: as in ``sine_position_2d``.

    Returns:
        (P, 2 * num_features).
    """
    h, w = size
    y = (rows.float() + 1 - cell_offset) / (h + EPSILON) * (2 * math.pi)
    x = (cols.float() + 1 - cell_offset) / (w + EPSILON) * (2 * math.pi)
    return torch.cat([sine_features(y, num_features), sine_features(x, num_features)], dim=-1)
