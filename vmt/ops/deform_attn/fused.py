"""Deformable attention out of raw offsets, logits and reference points: one kernel, not five."""

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
    check_reference,
    check_shapes,
    flatten_spatial_shapes,
)
from vmt.ops.deform_attn.library import define


def _check(
    spatial_shapes: Sequence[int],
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
) -> None:
    check_dtypes(value, offsets=offsets, logits=logits, reference_points=reference_points)
    check_shapes(value, spatial_shapes, offsets, logits, ("offsets", "logits"))
    check_reference(reference_points, offsets)


def _forward_op(
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    backend: str,
) -> Tensor:
    check_once(_check, spatial_shapes, value, offsets, logits, reference_points)
    module = backend_module(backend, value.device.type)
    out: Tensor = module.fused_forward(value, spatial_shapes, offsets, logits, reference_points)
    return out


def _forward_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    backend: str,
) -> Tensor:
    _check(spatial_shapes, value, offsets, logits, reference_points)
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, offsets.shape[1], heads * channels))


def _backward_op(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    reference_grad: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_once(_check, spatial_shapes, value, offsets, logits, reference_points)
    check_grad_out(grad_out, value, offsets.shape[1])
    module = backend_module(backend, value.device.type)
    grads: tuple[Tensor, Tensor, Tensor, Tensor] = module.fused_backward(
        grad_out, value, spatial_shapes, offsets, logits, reference_points, reference_grad
    )
    return grads


def _backward_fake(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    reference_grad: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reference = reference_points.shape if reference_grad else (0,)
    return (
        value.new_empty(value.shape),
        offsets.new_empty(offsets.shape),
        logits.new_empty(logits.shape),
        reference_points.new_empty(reference),
    )


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Sequence[int], Tensor, Tensor, Tensor, str],
    output: Tensor,
) -> None:
    value, spatial_shapes, offsets, logits, reference_points, backend = inputs
    ctx.save_for_backward(value, offsets, logits, reference_points)
    ctx.spatial_shapes = list(spatial_shapes)  # type: ignore[attr-defined]
    ctx.backend = backend  # type: ignore[attr-defined]


def _autograd_backward(
    ctx: torch.autograd.function.FunctionCtx, grad_out: Tensor
) -> tuple[Tensor, None, Tensor, Tensor, Tensor | None, None]:
    value, offsets, logits, reference_points = ctx.saved_tensors  # type: ignore[attr-defined]
    needed = ctx.needs_input_grad[4]  # type: ignore[attr-defined]
    grad_value, grad_offsets, grad_logits, grad_reference = _BACKWARD(
        grad_out,
        value,
        ctx.spatial_shapes,  # type: ignore[attr-defined]
        offsets,
        logits,
        reference_points,
        needed,
        ctx.backend,  # type: ignore[attr-defined]
    )
    reference = grad_reference if needed else None
    return grad_value, None, grad_offsets, grad_logits, reference, None


_FORWARD = define(
    "fused_ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor offsets, Tensor logits, "
    "Tensor reference_points, str backend) -> Tensor",
    _forward_op,
    _forward_fake,
    backward=_autograd_backward,
    setup_context=_setup_context,
)
_BACKWARD = define(
    "fused_ms_deform_attn_backward(Tensor grad_out, Tensor value, SymInt[] spatial_shapes, "
    "Tensor offsets, Tensor logits, Tensor reference_points, bool reference_grad, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _backward_op,
    _backward_fake,
)


def fused_ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    *,
    backend: str = AUTO,
) -> Tensor:
    """``ms_deform_attn`` at the places that ``places.sampling_places`` describes, in one kernel.

    Neither the locations nor the weights (the softmax of the logits over L*K) are written to
    memory. Types, sums, back ends, programs of ``torch.export`` and what reads zero are those of
    ``ms_deform_attn``.

    Args:
        value: (B, S, M, D), levels one after another, each row-major.
        spatial_shapes: L pairs (H_l, W_l), see ``ms_deform_attn``.
        offsets: (B, Q, M, L, K, 2) as (x, y).
        logits: (B, Q, M, L, K).
        reference_points: (B, Q, L, 2) as (x, y) in [0, 1] of the padded frame; offsets are then in
            cells of level l. Or (B, Q, L, 4) as cxcywh: offsets in box side / (2 K).
        backend: 'auto', 'reference', 'cpu' or 'cuda', see ``ms_deform_attn``.

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: a shape, type or device is wrong, or the forced back end cannot run here.
    """
    if backend != AUTO:
        check_backend_name(backend, f"backend={backend!r}")
    flat = flatten_spatial_shapes(spatial_shapes)
    if torch.compiler.is_exporting():
        return reference.fused_forward(value, flat, offsets, logits, reference_points)
    out: Tensor = _FORWARD(value, flat, offsets, logits, reference_points, backend)
    return out
