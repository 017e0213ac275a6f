"""Deterministic stand-ins for the published weight files, by the rule of the numeric check.

Every entry is a hash of its published name and index, so that anyone can fill any implementation
with the same values; the expected outputs in test_numeric_check.py were computed that way with the
published modules.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from vmt.checkpoint.key_maps.released import RELEASED, complete_released

MASK = 0xFFFFFFFF


def hashed(name: str, count: int) -> np.ndarray:
    """``count`` float64 values in [-1, 1) from a name."""
    v = (np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()))) & MASK
    v ^= v >> 16
    v = v * 0x7FEB352D & MASK
    v ^= v >> 15
    v = v * 0x846CA68B & MASK
    v ^= v >> 16
    return 2 * v.astype(np.float64) / 2**32 - 1


def entry(name: str, shape: tuple[int, ...]) -> Tensor:
    source = name.replace("detr.transformer.decoder.bbox_embed", "detr.bbox_embed")
    r = hashed(source, int(np.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * r
    elif len(shape) >= 2:
        flat = ("relative_position_bias_table", "query_embed.weight", "level_embed")
        fan = 3 if name.endswith(flat) else int(np.prod(shape)) // shape[0]
        gain = 0.3 if name.startswith("controller") and name.endswith("layers.2.weight") else 1.0
        value = r * gain * np.sqrt(3 / fan)
    elif name.endswith(".weight"):
        value = 1 + 0.1 * r
    elif name.endswith("sampling_offsets.bias"):
        value = 2 * r
    else:
        value = 0.1 * r
    return torch.from_numpy(value.astype(np.float32))


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """A published-layout state dict that fits ``model``."""
    released = RELEASED.to_released(model.state_dict())
    assert not released.unknown
    complete_released(released.state)
    return {
        name: value if value.dtype == torch.int64 else entry(name, tuple(value.shape))
        for name, value in released.state.items()
    }
