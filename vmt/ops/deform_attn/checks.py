"""What the operators of deformable attention refuse, in sentences."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from vmt.utils.errors import OpError

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)

SpatialShapes = Sequence[Sequence[int]] | Tensor


#: Kinds of arguments that were found right; see ``check_once``.
_RIGHT: set[Hashable] = set()
MOST_KINDS = 4096


def check_once(check: Callable[..., None], spatial_shapes: Sequence[int], *tensors: Tensor) -> None:
    """Check real tensors; free for arguments of the shapes, types and devices of an earlier call.

    Args:
        check: raises OpError; its arguments are ``spatial_shapes`` and the tensors.
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        *tensors: what else it looks at.
    """
    kinds = [(x.shape, x.dtype, x.device) for x in tensors]
    key = (check, *spatial_shapes, *kinds)
    if key in _RIGHT:
        return
    check(spatial_shapes, *tensors)
    if len(_RIGHT) >= MOST_KINDS:
        _RIGHT.clear()
    _RIGHT.add(key)


def check_dtypes(value: Tensor, **others: Tensor) -> None:
    """All four types are floating; double goes with double only, and all lie on one device.

    Args:
        value: (B, S, M, D).
        **others: the other arguments by name.

    Raises:
        OpError: they do not fit.
    """
    allowed = (torch.float64,) if value.dtype == torch.float64 else FLOAT_TYPES
    if value.dtype != torch.float64 and value.dtype not in FLOAT_TYPES:
        raise OpError(
            f"ms_deform_attn: value has type {value.dtype}; give float32, float16, bfloat16 or "
            "float64."
        )
    for name, tensor in others.items():
        if tensor.dtype not in allowed:
            raise OpError(
                f"ms_deform_attn: {name} has type {tensor.dtype} beside a value of "
                f"{value.dtype}; give one of {', '.join(map(str, allowed))}."
            )
        if tensor.device != value.device:
            raise OpError(
                f"ms_deform_attn: {name} is on {tensor.device}, value on {value.device}; "
                "move all of them to one device."
            )


def check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    names: tuple[str, str] = ("sampling_locations", "attention_weights"),
) -> None:
    """Sizes fit together.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).
        names: of the last two, for messages.

    Raises:
        OpError: they do not fit.
    """
    if value.dim() != 4:
        raise OpError(
            f"ms_deform_attn: value has shape {tuple(value.shape)}; (B, S, M, D) is needed."
        )
    if len(spatial_shapes) < 2 or len(spatial_shapes) % 2 or min(spatial_shapes) < 1:
        raise OpError(
            f"ms_deform_attn: spatial_shapes flattens to {list(spatial_shapes)}; one or more "
            "pairs (H, W), each at least 1, are needed."
        )
    batch, tokens, heads, _ = value.shape
    levels = len(spatial_shapes) // 2
    expected = sum(h * w for h, w in zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    if tokens != expected:
        raise OpError(
            f"ms_deform_attn: value has S={tokens} tokens, but the {levels} levels of "
            f"spatial_shapes hold {expected}; the two must be equal."
        )
    shape = tuple(locations.shape)
    if len(shape) != 6 or (shape[0], shape[2], shape[3], shape[5]) != (batch, heads, levels, 2):
        raise OpError(
            f"ms_deform_attn: {names[0]} has shape {shape}; (B, Q, M, L, K, 2) with "
            f"B={batch}, M={heads}, L={levels} is needed."
        )
    if tuple(weights.shape) != shape[:-1]:
        raise OpError(
            f"ms_deform_attn: {names[1]} has shape {tuple(weights.shape)}; "
            f"{names[0]} without its last axis, {shape[:-1]}, is needed."
        )


def check_reference(reference: Tensor, offsets: Tensor) -> None:
    """Reference points are (B, Q, L, 2 or 4).

    Args:
        reference: of the fused operator.
        offsets: (B, Q, M, L, K, 2).

    Raises:
        OpError: they are not.
    """
    batch, queries, _, levels, _, _ = offsets.shape
    shape = tuple(reference.shape)
    if shape not in ((batch, queries, levels, 2), (batch, queries, levels, 4)):
        raise OpError(
            f"ms_deform_attn: reference_points has shape {shape}; (B, Q, L, 2) for points or "
            f"(B, Q, L, 4) for boxes with B={batch}, Q={queries}, L={levels} is needed."
        )


def check_grad_out(grad_out: Tensor, value: Tensor, queries: int) -> None:
    """The gradient of the output fits.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        queries: Q.

    Raises:
        OpError: it does not.
    """
    batch, _, heads, channels = value.shape
    expected = (batch, queries, heads * channels)
    if tuple(grad_out.shape) != expected or grad_out.device != value.device:
        raise OpError(
            f"ms_deform_attn: the gradient has shape {tuple(grad_out.shape)} on "
            f"{grad_out.device}; {expected} on {value.device} is needed."
        )


def flatten_spatial_shapes(spatial_shapes: SpatialShapes) -> list[int]:
    """Return H_0, W_0, H_1, W_1, ...

    Args:
        spatial_shapes: L pairs (H_l, W_l), or a (L, 2) integer tensor.

    Raises:
        OpError: it is neither.
    """
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2:
            raise OpError(
                f"ms_deform_attn: spatial_shapes has shape {tuple(spatial_shapes.shape)}; "
                "(L, 2) with rows (H, W) is needed."
            )
        if spatial_shapes.is_floating_point():
            raise OpError(
                f"ms_deform_attn: spatial_shapes has type {spatial_shapes.dtype}; integers are "
                "needed."
            )
        spatial_shapes = spatial_shapes.tolist()
    flat: list[int] = []
    for shape in spatial_shapes:
        if len(shape) != 2:
            raise OpError(
                f"ms_deform_attn: spatial_shapes holds {tuple(shape)}; pairs (H, W) are needed."
            )
        flat += (shape[0], shape[1])
    return flat
