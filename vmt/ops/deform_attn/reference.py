"""Multi-scale deformable attention in plain PyTorch: any device, the measure of the other two."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.ops.deform_attn.places import (
    composed_backward,
    composed_forward,
    compute_dtype,
    inside_map,
)

# A location far outside every map: all four taps read zero, and no gradient comes back.
OUTSIDE_LOCATION = -2.0
# Values of ATen's enums for grid_sampler_2d_backward.
GRID_SAMPLE_BILINEAR = 0
GRID_SAMPLE_ZEROS = 0


def _levels(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Yield per level: its first token, map, grid and weights for ``grid_sample``, and inside.

    Map (B*M, D, H, W), grid (B*M, Q, K, 2) in [-1, 1], weights and inside (B*M, Q, K).
    """
    batch, _, heads, channels = value.shape
    start = 0
    for level, (height, width) in enumerate(
        zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True)
    ):
        tokens = value[:, start : start + height * width]  # (B, H*W, M, D)
        level_map = tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        level_locations = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)
        inside = inside_map(level_locations, height, width)
        safe = level_locations.masked_fill(~inside[..., None], OUTSIDE_LOCATION)
        level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        level_weights = level_weights.masked_fill(~inside, 0)
        yield start, level_map, 2 * safe - 1, level_weights, inside
        start += height * width


def forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute what ``ms_deform_attn`` describes, out of differentiable PyTorch operators.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).

    Returns:
        (B, Q, M*D) in the type of ``value``.
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    compute = compute_dtype(value.dtype)
    with torch.autocast(value.device.type, enabled=False):
        out = value.new_zeros((batch * heads, channels, queries), dtype=compute)
        for _, level_map, grid, level_weights, _ in _levels(
            value.to(compute), spatial_shapes, locations.to(compute), weights.to(compute)
        ):
            sampled = F.grid_sample(level_map, grid, align_corners=False)  # (B*M, D, Q, K)
            out = out + (sampled * level_weights[:, None]).sum(-1)
        out = out.reshape(batch, heads * channels, queries).transpose(1, 2)  # (B, Q, M*D)
        return out.to(value.dtype).contiguous()


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``value``, ``locations`` and ``weights``, written out by hand.

    A custom operator runs below autograd, where the derivative of ``forward`` is not recorded.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).

    Returns:
        Three tensors, each of the shape and type of its input.
    """
    batch, _, heads, channels = value.shape
    compute = compute_dtype(value.dtype)
    grad_value = torch.zeros(value.shape, dtype=compute, device=value.device)
    grad_locations = torch.zeros(locations.shape, dtype=compute, device=value.device)
    grad_weights = torch.zeros(weights.shape, dtype=compute, device=value.device)
    queries, points = locations.shape[1], locations.shape[4]
    grad = grad_out.to(compute).transpose(1, 2).reshape(batch * heads, channels, queries)
    with torch.autocast(value.device.type, enabled=False):
        for level, (start, level_map, grid, level_weights, inside) in enumerate(
            _levels(value.to(compute), spatial_shapes, locations.to(compute), weights.to(compute))
        ):
            sampled = F.grid_sample(level_map, grid, align_corners=False)
            level_grad_weights = (sampled * grad[..., None]).sum(1).masked_fill(~inside, 0)
            grad_sampled = grad[..., None] * level_weights[:, None]  # (B*M, D, Q, K)
            grad_map, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
                grad_sampled,
                level_map,
                grid,
                GRID_SAMPLE_BILINEAR,
                GRID_SAMPLE_ZEROS,
                False,  # align_corners
                [True, True],
            )
            tokens = level_map.shape[2] * level_map.shape[3]
            grad_tokens = grad_map.reshape(batch, heads, channels, tokens).permute(0, 3, 1, 2)
            grad_value[:, start : start + tokens] = grad_tokens
            # The factor is the slope of the grid, twice the location minus one.
            grad_grid = 2 * grad_grid.masked_fill(~inside[..., None], 0)
            per_head = (batch, heads, queries, points)
            grad_locations[:, :, :, level] = grad_grid.reshape(*per_head, 2).transpose(1, 2)
            grad_weights[:, :, :, level] = level_grad_weights.reshape(per_head).transpose(1, 2)
    return (
        grad_value.to(value.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def fused_forward(
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
) -> Tensor:
    """Compute what ``fused_ms_deform_attn`` describes, out of differentiable PyTorch operators.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).

    Returns:
        (B, Q, M*D) in the type of ``value``.
    """
    return composed_forward(forward, value, spatial_shapes, offsets, logits, reference)


def fused_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    reference_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``value``, ``offsets``, ``logits`` and ``reference``.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).
        reference_grad: False: the last gradient is not needed, and empty.

    Returns:
        Four tensors, each of the shape and type of its input.
    """
    return composed_backward(
        backward, grad_out, value, spatial_shapes, offsets, logits, reference, reference_grad
    )


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute ``vmt.ops.ms_deform_attn`` as ordinary PyTorch operators that autograd records.

    Args:
        value: (B, S, M, D).
        spatial_shapes: L pairs (H_l, W_l).
        sampling_locations: (B, Q, M, L, K, 2) as (x, y) in [0, 1].
        attention_weights: (B, Q, M, L, K).

    Returns:
        (B, Q, M*D).
    """
    flat = [int(side) for shape in spatial_shapes for side in shape]
    return forward(value, flat, sampling_locations, attention_weights)
