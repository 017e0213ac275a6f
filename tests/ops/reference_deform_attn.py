"""Slow and obvious multi-scale deformable attention: four taps in plain Python loops."""

import itertools
import math

import torch
from torch import Tensor


def loop_ms_deform_attn(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum the taps one by one in float64; the arguments are those of ``vmt.ops.ms_deform_attn``."""
    batch, _, heads, channels = value.shape
    _, queries, _, levels, points, _ = sampling_locations.shape
    out = torch.zeros(batch, queries, heads, channels, dtype=torch.float64)
    starts = [0, *itertools.accumulate(height * width for height, width in spatial_shapes)]
    for b, q, m, level, k in itertools.product(
        range(batch), range(queries), range(heads), range(levels), range(points)
    ):
        height, width = spatial_shapes[level]
        x, y = sampling_locations[b, q, m, level, k].double().tolist()
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        pixel_x = x * width - 0.5
        pixel_y = y * height - 0.5
        for row in (math.floor(pixel_y), math.floor(pixel_y) + 1):
            for column in (math.floor(pixel_x), math.floor(pixel_x) + 1):
                if not (0 <= row < height and 0 <= column < width):
                    continue
                tap = (1 - abs(pixel_y - row)) * (1 - abs(pixel_x - column))
                token = starts[level] + row * width + column
                weight = attention_weights[b, q, m, level, k].double()
                out[b, q, m] += weight * tap * value[b, token, m].double()
    return out.flatten(2)
