"""Where a query reads: sampling places and weights out of offsets, logits and reference points.

The PyTorch form of what the compiled kernels do, and the way back of its gradients.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vmt.utils.device import constant


def compute_dtype(value_dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums are held: float64 for float64, float32 for all others."""
    return torch.float64 if value_dtype == torch.float64 else torch.float32


def inside_map(locations: Tensor, height: int, width: int) -> Tensor:
    """Tell which samples touch the map; NaN and infinite locations never do.

    Args:
        locations: (..., 2) as (x, y), the map spanning [0, 1].
        height: rows of the map.
        width: columns of the map.

    Returns:
        (...) bool.
    """
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    return (x > -1) & (x < width) & (y > -1) & (y < height)


def map_sizes(spatial_shapes: Sequence[int], like: Tensor) -> Tensor:
    """(L, 2) as (w, h), in the type and on the device of ``like``.

    Args:
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        like: any tensor.
    """
    pairs = zip(spatial_shapes[1::2], spatial_shapes[::2], strict=True)
    return constant(tuple((float(w), float(h)) for w, h in pairs), like)


def sampling_places(
    offsets: Tensor, logits: Tensor, reference: Tensor, spatial_shapes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Locations and weights for ``ms_deform_attn`` (arXiv:2010.04159, section 4.1 and A.3).

    Args:
        offsets: (B, Q, M, L, K, 2) as (x, y).
        logits: (B, Q, M, L, K), half types as float32.
        reference: (B, Q, L, 2) as (x, y) in [0, 1] of the padded frame; offsets are then in cells
            of level l. Or (B, Q, L, 4) as cxcywh: offsets in box side / (2 K).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.

    Returns:
        Locations (B, Q, M, L, K, 2) as (x, y) in [0, 1] of the padded frame, and weights
        (B, Q, M, L, K), which add up to 1 over L and K.
    """
    weights = logits.to(compute_dtype(logits.dtype)).flatten(-2).softmax(-1).view(logits.shape)
    centre = reference[:, :, None, :, None, :2]  # (B, Q, 1, L, 1, 2)
    if reference.shape[-1] == 2:
        return centre + offsets / map_sizes(spatial_shapes, offsets)[:, None], weights
    sides = reference[:, :, None, :, None, 2:]
    return centre + offsets / offsets.shape[4] * sides * 0.5, weights


def weight_gradients(grad_weights: Tensor, weights: Tensor) -> Tensor:
    """Gradients of logits out of those of their softmax over L and K.

    Args:
        grad_weights: (B, Q, M, L, K).
        weights: (B, Q, M, L, K).

    Returns:
        (B, Q, M, L, K).
    """
    total = (weights * grad_weights).sum((-2, -1), keepdim=True)
    return weights * (grad_weights - total)


def place_gradients(
    grad_pixels: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    reference: Tensor,
    reference_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of offsets and reference points out of those of the places in pixels.

    Args:
        grad_pixels: (B, Q, M, L, K, 2), in the type of sums.
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        reference: (B, Q, L, 2 or 4).
        reference_grad: False: the second is not needed, and empty.

    Returns:
        Two tensors, each of the shape and type of its input.
    """
    axes = reference.shape[-1]
    grad_offsets = grad_pixels
    if axes == 4 or reference_grad:
        grad_locations = grad_pixels * map_sizes(spatial_shapes, grad_pixels)[:, None]
    if axes == 4:
        unit = 0.5 / offsets.shape[4] if offsets.shape[4] else 0.0
        sides = reference[:, :, None, :, None, 2:].to(grad_pixels.dtype)
        grad_offsets = grad_locations * (sides * unit)
    if not reference_grad:
        return grad_offsets.to(offsets.dtype), reference.new_empty(0)
    parts = [grad_locations.sum((2, 4))]
    if axes == 4:
        finite = offsets.to(grad_pixels.dtype).nan_to_num(0.0, 0.0, 0.0)  # others get no gradient
        parts.append((grad_locations * finite).sum((2, 4)) * unit)
    return grad_offsets.to(offsets.dtype), torch.cat(parts, -1).to(reference.dtype)


def composed_forward(
    forward: Callable[..., Tensor],
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
) -> Tensor:
    """The fused operator out of a back end's ``forward``; arguments as ``fused_ms_deform_attn``.

    Args:
        forward: of locations and weights.
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).

    Returns:
        (B, Q, M*D) in the type of ``value``.
    """
    compute = compute_dtype(value.dtype)
    with torch.autocast(value.device.type, enabled=False):
        locations, weights = sampling_places(
            offsets.to(compute), logits.to(compute), reference.to(compute), spatial_shapes
        )
    return forward(value, spatial_shapes, locations, weights)


def composed_backward(
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    reference_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fused operator's gradients out of a back end's ``backward``.

    Args:
        backward: of locations and weights.
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).
        reference_grad: see ``place_gradients``.

    Returns:
        Four tensors, each of the shape and type of its input.
    """
    compute = compute_dtype(value.dtype)
    with torch.autocast(value.device.type, enabled=False):
        locations, weights = sampling_places(
            offsets.to(compute), logits.to(compute), reference.to(compute), spatial_shapes
        )
        grad_value, grad_locations, grad_weights = backward(
            grad_out, value, spatial_shapes, locations, weights
        )
        grad_pixels = grad_locations / map_sizes(spatial_shapes, grad_locations)[:, None]
        grad_offsets, grad_reference = place_gradients(
            grad_pixels, spatial_shapes, offsets, reference, reference_grad
        )
        grad_logits = weight_gradients(grad_weights, weights)
    return grad_value, grad_offsets, grad_logits.to(logits.dtype), grad_reference
