"""Multi-scale deformable attention: the public function and its registration.

Source: Deformable DETR, arXiv:2010.04159, Eq. 3, without its two projections:

    out[b, q, m] = sum over levels l and points k of
        attention_weights[b, q, m, l, k] * value_l[b, m] read at sampling_locations[b, q, m, l, k]

Letters: B batch, Q queries, S = sum of H_l * W_l tokens, L levels, M heads, K points, D channels
of one head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vmt.ops.deform_attn import reference
from vmt.ops.deform_attn.backends import AUTO, backend_module, check_backend_name
from vmt.ops.deform_attn.checks import (
    SpatialShapes,
    check_dtypes,
    check_grad_out,
    check_once,
    check_shapes,
    flatten_spatial_shapes,
)
from vmt.ops.deform_attn.library import define


def _check(
    spatial_shapes: Sequence[int],
    value: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    check_dtypes(value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    check_shapes(value, spatial_shapes, sampling_locations, attention_weights)


def _forward_op(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> Tensor:
    # Checked here and not in the public function: the operator can be called by its torch.ops name,
    # and what follows reads raw memory.
    check_once(_check, spatial_shapes, value, sampling_locations, attention_weights)
    module = backend_module(backend, value.device.type)
    out: Tensor = module.forward(value, spatial_shapes, sampling_locations, attention_weights)
    return out


def _forward_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> Tensor:
    _check(spatial_shapes, value, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, sampling_locations.shape[1], heads * channels))


def _backward_op(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_once(_check, spatial_shapes, value, sampling_locations, attention_weights)
    check_grad_out(grad_out, value, sampling_locations.shape[1])
    module = backend_module(backend, value.device.type)
    grads: tuple[Tensor, Tensor, Tensor] = module.backward(
        grad_out, value, spatial_shapes, sampling_locations, attention_weights
    )
    return grads


def _backward_fake(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        attention_weights.new_empty(attention_weights.shape),
    )


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Sequence[int], Tensor, Tensor, str],
    output: Tensor,
) -> None:
    value, spatial_shapes, sampling_locations, attention_weights, backend = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)
    ctx.spatial_shapes = list(spatial_shapes)  # type: ignore[attr-defined]
    ctx.backend = backend  # type: ignore[attr-defined]


def _autograd_backward(
    ctx: torch.autograd.function.FunctionCtx, grad_out: Tensor
) -> tuple[Tensor, None, Tensor, Tensor, None]:
    value, sampling_locations, attention_weights = ctx.saved_tensors  # type: ignore[attr-defined]
    grad_value, grad_locations, grad_weights = _BACKWARD(
        grad_out,
        value,
        ctx.spatial_shapes,  # type: ignore[attr-defined]
        sampling_locations,
        attention_weights,
        ctx.backend,  # type: ignore[attr-defined]
    )
    return grad_value, None, grad_locations, grad_weights, None


_FORWARD = define(
    "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
    "Tensor attention_weights, str backend) -> Tensor",
    _forward_op,
    _forward_fake,
    backward=_autograd_backward,
    setup_context=_setup_context,
)
_BACKWARD = define(
    "ms_deform_attn_backward(Tensor grad_out, Tensor value, SymInt[] spatial_shapes, "
    "Tensor sampling_locations, Tensor attention_weights, str backend) -> (Tensor, Tensor, Tensor)",
    _backward_op,
    _backward_fake,
)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = AUTO,
) -> Tensor:
    """Sum L*K bilinear samples of ``value`` per query and head (arXiv:2010.04159, Eq. 3).

    Sampling is ``grid_sample(mode='bilinear', padding_mode='zeros', align_corners=False)`` at
    2 * location - 1: pixel = location * size - 0.5, and cells outside the map read zero. A sample
    with a NaN or infinite location, or one whose four cells all lie outside, reads zero whatever
    its weight, and its location and weight get zero gradient.

    Sums are held in float32 (float64 for a float64 ``value``). Half-precision values may come with
    float32 locations and weights, as they do under autocast; bfloat16 locations are allowed but
    tell apart only 256 steps in [0.5, 1]. The first derivative is defined, the second is not. On
    the CPU both directions give the same bits whatever the number of threads; the CUDA gradient
    of ``value`` is a sum in no fixed order. A program of ``torch.export`` has ``grid_sample`` in
    its place, and runs without VMT.

    Args:
        value: (B, S, M, D), levels one after another, each row-major.
        spatial_shapes: L pairs (H_l, W_l) as Python ints. A (L, 2) integer tensor works too, but
            on a GPU it costs one wait for the device per call, and it cannot be traced.
        sampling_locations: (B, Q, M, L, K, 2) as (x, y), [0, 1] spanning each level's map.
        attention_weights: (B, Q, M, L, K), usually a softmax over L*K.
        backend: 'auto', 'reference', 'cpu' or 'cuda'. 'auto' follows the environment variable
            VMT_DEFORM_ATTN (same names), otherwise takes the fastest for the device and falls
            back to 'reference' with one warning.

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: a shape, type or device is wrong, or the forced back end cannot run here.
    """
    if backend != AUTO:
        check_backend_name(backend, f"backend={backend!r}")
    flat = flatten_spatial_shapes(spatial_shapes)
    if torch.compiler.is_exporting():
        return reference.forward(value, flat, sampling_locations, attention_weights)
    out: Tensor = _FORWARD(value, flat, sampling_locations, attention_weights, backend)
    return out
