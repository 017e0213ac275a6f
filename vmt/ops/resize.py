"""Upsampling in the conventions of the published networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def aligned_upsample2(x: Tensor) -> Tensor:
    """Double the resolution so that input cell i keeps its value at output cell 2i+1.

    The "aligned bilinear" of CondInst (arXiv:2003.05664) for factor 2, written as what it does:
    out[0] = in[0], out[2i+1] = in[i], out[2i] = (in[i-1] + in[i]) / 2 along each axis.

    Args:
        x: (..., h, w).

    Returns:
        (..., 2h, 2w).
    """
    return double_last(double_last(x).transpose(-1, -2)).transpose(-1, -2)


def double_last(x: Tensor) -> Tensor:
    """``aligned_upsample2`` along the last axis alone."""
    before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
    return torch.stack([(before + x) * 0.5, x], dim=-1).flatten(-2)


def network_size(height: int, width: int, min_size: int, max_size: int = 0) -> tuple[int, int]:
    """Size of the network's input for frames of some size, as the released VMT has it.

    Args:
        height: of the frames, in pixels.
        width: likewise.
        min_size: short side of the result; the long side is cut to an integer.
        max_size: bound of the long side, which then gives the scale; 0: none.

    Returns:
        (h, w).
    """
    short, long = min(height, width), max(height, width)
    target_short, target_long = min_size, min_size * long // short
    if max_size and target_long > max_size:
        target_short, target_long = max(max_size * short // long, 1), max_size
    return (target_short, target_long) if width >= height else (target_long, target_short)


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize: cell i reads floor(i * in / out), PyTorch's default rule.

    Args:
        x: (B, C, h, w).
        size: (h, w) of the result.

    Returns:
        (B, C, *size).
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="nearest")


def cell_centres_px(
    size: tuple[int, int], stride: int, like: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Input pixel that a cell of a strided map stands for: s * j + s // 2 (spec of CondInst).

    Args:
        size: (h, w) of the map.
        stride: input pixels per cell.
        like: gives the device.
        dtype: of the result.

    Returns:
        (2, h, w): x, then y, in pixels.
    """
    h, w = size
    y = torch.arange(h, device=like.device, dtype=dtype) * stride + stride // 2
    x = torch.arange(w, device=like.device, dtype=dtype) * stride + stride // 2
    return torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)])
