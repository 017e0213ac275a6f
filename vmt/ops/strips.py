"""Running layers over a part of a map at a time, so that what they need between stays small."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

#: Numbers of the widest map in between that exist at once on a CPU when no gradient is asked for:
#: 4 MB, which its caches hold.
STRIP_VALUES = 2**20
#: Least rows of a strip that has a halo, so that it stays a small part of it.
MIN_ROWS = 32
#: Share of a GPU's memory, in floats, for the same: there is nothing to win from less.
GPU_SHARE = 1 / 16


def values_at_once(device: torch.device) -> int:
    """Numbers between two layers that may exist at once when no gradient is asked for."""
    return _gpu_values(device) if device.type == "cuda" else STRIP_VALUES


@functools.cache
def _gpu_values(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE) // 4


def in_row_strips(
    rows_of: Callable[[int, int], Tensor],
    height: int,
    halo: int,
    values_per_row: int,
    device: torch.device,
) -> Tensor:
    """The map that ``rows_of(0, height)`` gives, made strip by strip when no gradient is asked for.

    Args:
        rows_of: (top, bottom) -> (..., bottom - top, w), rows of the map; they may be wrong within
            ``halo`` rows of top and bottom, except at the ends of the map.
        height: rows of the map.
        halo: rows around a strip that are computed and dropped.
        values_per_row: numbers per row of the widest map in between.
        device: of the map.

    Returns:
        (..., height, w), in the memory format of the strips.
    """
    step = max(values_at_once(device) // max(values_per_row, 1), MIN_ROWS if halo else 1)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or step >= height:
        return rows_of(0, height)
    whole: Tensor | None = None
    for start in range(0, height, step):
        stop = min(start + step, height)
        top = max(start - halo, 0)
        strip = rows_of(top, min(stop + halo, height))[..., start - top : stop - top, :]
        if whole is None:
            whole = _tall(strip, height)
        whole[..., start:stop, :] = strip
    assert whole is not None, "a map has rows"
    return whole


def _tall(strip: Tensor, height: int) -> Tensor:
    """Room for ``height`` rows like those of ``strip``, channels last if there they are."""
    size = (*strip.shape[:-2], height, strip.shape[-1])
    channels_last = strip.ndim == 4 and strip.shape[1] > 1 and strip.stride(1) == 1
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=strip.dtype, device=strip.device, memory_format=memory)
