"""Multi-scale deformable attention: the public function, its registration, the choice of back end.

Source: Deformable DETR, arXiv:2010.04159, Eq. 3, without its two projections:

    out[b, q, m] = sum over levels l and points k of
        attention_weights[b, q, m, l, k] * value_l[b, m] read at sampling_locations[b, q, m, l, k]

Letters: B batch, Q queries, S = sum of H_l * W_l tokens, L levels, M heads, K points, D channels
of one head.
"""

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from vmt.ops.deform_attn import cpu, cuda, reference
from vmt.utils.cache import cache_dir
from vmt.utils.errors import OpError

logger = logging.getLogger(__name__)

BACKEND_VARIABLE = "VMT_DEFORM_ATTN"
AUTO = "auto"
BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "cuda": cuda}
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)

SpatialShapes = Sequence[Sequence[int]] | Tensor


@dataclass(frozen=True)
class BackendStatus:
    """Whether one back end can run here; ``reason`` says why not and what to do."""

    available: bool
    reason: str | None


@dataclass(frozen=True)
class BackendReport:
    """What ``vmt doctor`` prints about this operator.

    Attributes:
        backends: 'reference', 'cpu' and 'cuda', each with its status.
        active: back end in use per device type, 'cpu' and 'cuda'.
        forced: value of VMT_DEFORM_ATTN where it is set to something else than 'auto'.
        cpu_isa: 'baseline', 'avx2' or 'avx512'; None without the compiled library.
        cpu_threads: threads of one call on the CPU.
        cuda_cache_dir: folder that keeps compiled CUDA kernels.
    """

    backends: dict[str, BackendStatus]
    active: dict[str, str]
    forced: str | None
    cpu_isa: str | None
    cpu_threads: int
    cuda_cache_dir: str


def _check_dtypes(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> None:
    allowed = (torch.float64,) if value.dtype == torch.float64 else FLOAT_TYPES
    if value.dtype != torch.float64 and value.dtype not in FLOAT_TYPES:
        raise OpError(
            f"ms_deform_attn: value has type {value.dtype}; give float32, float16, bfloat16 or "
            "float64."
        )
    for name, tensor in (
        ("sampling_locations", sampling_locations),
        ("attention_weights", attention_weights),
    ):
        if tensor.dtype not in allowed:
            raise OpError(
                f"ms_deform_attn: {name} has type {tensor.dtype} beside a value of "
                f"{value.dtype}; give one of {', '.join(map(str, allowed))}."
            )
        if tensor.device != value.device:
            raise OpError(
                f"ms_deform_attn: {name} is on {tensor.device}, value on {value.device}; "
                "move all three to one device."
            )


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
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
    shape = tuple(sampling_locations.shape)
    if len(shape) != 6 or (shape[0], shape[2], shape[3], shape[5]) != (batch, heads, levels, 2):
        raise OpError(
            f"ms_deform_attn: sampling_locations has shape {shape}; (B, Q, M, L, K, 2) with "
            f"B={batch}, M={heads}, L={levels} is needed."
        )
    if tuple(attention_weights.shape) != shape[:-1]:
        raise OpError(
            f"ms_deform_attn: attention_weights has shape {tuple(attention_weights.shape)}; "
            f"sampling_locations without its last axis, {shape[:-1]}, is needed."
        )


def _flatten_spatial_shapes(spatial_shapes: SpatialShapes) -> list[int]:
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


@functools.cache
def _warn_about_fallback(device_type: str, reason: str) -> None:
    """Log once per process and device type that the slow path is in use."""
    logger.warning(
        "ms_deform_attn runs on the slower PyTorch reference for %s tensors: %s.",
        device_type,
        reason,
    )


def _forced_backend(argument: str) -> tuple[str, str]:
    """Return the name asked for ('auto' for none) and who asked, for messages."""
    if argument != AUTO:
        return argument, f"backend={argument!r}"
    name = os.environ.get(BACKEND_VARIABLE, "").strip().lower() or AUTO
    return name, f"{BACKEND_VARIABLE}={name}"


def _check_backend_name(name: str, origin: str) -> None:
    if name != AUTO and name not in BACKENDS:
        raise OpError(
            f"ms_deform_attn: {origin} names no back end; choose auto, {', '.join(BACKENDS)}."
        )


def _choose_backend(argument: str, device_type: str) -> str:
    """Return the back end for tensors of ``device_type``: the forced one or the fastest.

    Raises:
        OpError: the forced one is unknown, not available, or made for another device.
    """
    name, origin = _forced_backend(argument)
    _check_backend_name(name, origin)
    if name == AUTO:
        name, reason = _fastest_backend(device_type)
        if reason is not None:
            _warn_about_fallback(device_type, reason)
        return name
    if name == "reference":
        return name
    if name != device_type:
        raise OpError(
            f"ms_deform_attn: {origin} cannot read tensors on {device_type}; move them to "
            f"{name}, or choose auto or reference."
        )
    reason = BACKENDS[name].unavailable_reason()
    if reason is not None:
        raise OpError(
            f"ms_deform_attn: {origin} asks for a back end that is not available: {reason}; or "
            "choose auto or reference."
        )
    return name


def _fastest_backend(device_type: str) -> tuple[str, str | None]:
    """Return the back end, and for a fall-back the reason why it is not the compiled one."""
    if device_type not in ("cpu", "cuda"):
        return "reference", None
    reason = BACKENDS[device_type].unavailable_reason()
    return (device_type if reason is None else "reference"), reason


@torch.library.custom_op("vmt::ms_deform_attn", mutates_args=())
def _forward_op(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> Tensor:
    # Checked here and not in the public function: the operator can be called by its torch.ops name,
    # and what follows reads raw memory.
    _check_dtypes(value, sampling_locations, attention_weights)
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    module = BACKENDS[_choose_backend(backend, value.device.type)]
    out: Tensor = module.forward(value, spatial_shapes, sampling_locations, attention_weights)
    return out


@_forward_op.register_fake
def _(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> Tensor:
    _check_dtypes(value, sampling_locations, attention_weights)
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, sampling_locations.shape[1], heads * channels))


@torch.library.custom_op("vmt::ms_deform_attn_backward", mutates_args=())
def _backward_op(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_dtypes(value, sampling_locations, attention_weights)
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    expected = (batch, sampling_locations.shape[1], heads * channels)
    if tuple(grad_out.shape) != expected or grad_out.device != value.device:
        raise OpError(
            f"ms_deform_attn: the gradient has shape {tuple(grad_out.shape)} on "
            f"{grad_out.device}; {expected} on {value.device} is needed."
        )
    module = BACKENDS[_choose_backend(backend, value.device.type)]
    grads: tuple[Tensor, Tensor, Tensor] = module.backward(
        grad_out, value, spatial_shapes, sampling_locations, attention_weights
    )
    return grads


@_backward_op.register_fake
def _(
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
    grad_value, grad_locations, grad_weights = _backward_op(
        grad_out,
        value,
        ctx.spatial_shapes,  # type: ignore[attr-defined]
        sampling_locations,
        attention_weights,
        ctx.backend,  # type: ignore[attr-defined]
    )
    return grad_value, None, grad_locations, grad_weights, None


_forward_op.register_autograd(_autograd_backward, setup_context=_setup_context)


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
    of ``value`` is a sum in no fixed order.

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
    _check_backend_name(backend, f"backend={backend!r}")
    flat = _flatten_spatial_shapes(spatial_shapes)
    out: Tensor = _forward_op(value, flat, sampling_locations, attention_weights, backend)
    return out


def describe_backend() -> BackendReport:
    """Report which back ends can run here and which are in use; never raises.

    Returns:
        The report; a forced back end that cannot run shows as 'error: ...' under ``active``.
    """
    statuses = {"reference": BackendStatus(available=True, reason=None)}
    for name in ("cpu", "cuda"):
        reason = BACKENDS[name].unavailable_reason()
        statuses[name] = BackendStatus(available=reason is None, reason=reason)
    forced, _ = _forced_backend(AUTO)
    active = {}
    for device_type in ("cpu", "cuda"):
        if forced == AUTO:
            active[device_type], _ = _fastest_backend(device_type)
            continue
        try:
            active[device_type] = _choose_backend(AUTO, device_type)
        except OpError as error:
            active[device_type] = f"error: {error}"
    return BackendReport(
        backends=statuses,
        active=active,
        forced=None if forced == AUTO else forced,
        cpu_isa=cpu.isa_level() if statuses["cpu"].available else None,
        cpu_threads=torch.get_num_threads(),
        cuda_cache_dir=str(cache_dir()),
    )
