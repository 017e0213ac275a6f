"""Multi-scale deformable attention on the CPU: loads the compiled library and calls it.

The library (``csrc/cpu_*.cpp``) has a C interface over raw pointers, so it needs no torch headers
and fits every torch version. ctypes releases the GIL for the length of a call.
"""

import ctypes
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmt.ops.deform_attn.places import (
    composed_backward,
    composed_forward,
    compute_dtype,
    place_gradients,
)
from vmt.utils.errors import OpError

LIBRARY_MODULE = "vmt.ops.deform_attn._kernel"
# kAbiVersion of csrc/cpu_api.cpp: a library built from other sources is not called.
ABI_VERSION = 2
# Isa in csrc/cpu_api.cpp.
ISA_NUMBERS = {"auto": 0, "baseline": 1, "avx2": 2, "avx512": 3}
STATUS_OUT_OF_MEMORY = 1
STATUS_MESSAGES = {
    STATUS_OUT_OF_MEMORY: "not enough memory for one copy of value per thread; use fewer threads",
    2: "the sizes do not fit together or exceed 2^31 - 1 tokens",
    3: "this processor does not have the requested instruction set",
}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """Return the library, or None and the reason why there is none."""
    spec = importlib.util.find_spec(LIBRARY_MODULE)
    if spec is None or spec.origin is None:
        return None, (
            "the compiled library is not installed; install a C++17 compiler (g++ 12 or clang) "
            "and run `pip install` again"
        )
    try:
        library = ctypes.CDLL(spec.origin)
        version = int(library.vmt_deform_attn_abi())
    except (OSError, AttributeError) as error:
        return None, f"{spec.origin} cannot be loaded ({error}); run `pip install` again"
    if version != ABI_VERSION:
        return None, (
            f"{spec.origin} has interface version {version}, {ABI_VERSION} is needed; "
            "run `pip install` again to rebuild it"
        )
    library.vmt_deform_attn_use_pool(torch_thread_pool())
    if hasattr(os, "register_at_fork"):  # the threads of a pool do not follow into a fork
        os.register_at_fork(after_in_child=lambda: library.vmt_deform_attn_use_pool(None))
    return library, None


@functools.cache
def torch_thread_pool() -> ctypes.c_void_p | None:
    """Return ``GOMP_parallel`` of the OpenMP library that torch runs on; None: there is none.

    Only a library that is loaded already counts: a second one would be a second pool.
    """
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    package = Path(torch.__file__).parent
    for path in sorted(
        [*package.glob("lib/libgomp*.so*"), *package.glob("../torch.libs/libgomp*")]
    ):
        try:
            found = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            return ctypes.cast(found.GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return None


def unavailable_reason() -> str | None:
    """Return None where the library can be called, otherwise why not and what to do."""
    return _load()[1]


def library() -> ctypes.CDLL:
    """Return the loaded library.

    Raises:
        OpError: there is none; the message says why.
    """
    loaded, reason = _load()
    if loaded is None:
        raise OpError(f"ms_deform_attn: the cpu back end is not available: {reason}.")
    return loaded


def isa_level() -> str:
    """Return the instruction set the library picks here: 'baseline', 'avx2' or 'avx512'."""
    best = int(library().vmt_deform_attn_best_isa())
    return next(name for name, number in ISA_NUMBERS.items() if number == best)


def _entry(direction: str, dtype: torch.dtype) -> Any:
    suffix = "f64" if dtype == torch.float64 else "f32"
    return library()[f"vmt_deform_attn_{direction}_{suffix}"]


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _check(status: int) -> None:
    if status == STATUS_OUT_OF_MEMORY:
        raise MemoryError(f"ms_deform_attn: {STATUS_MESSAGES[status]}")
    if status:
        raise OpError(f"ms_deform_attn: {STATUS_MESSAGES[status]}.")


def _sizes(
    value: Tensor, locations: Tensor, reference: Tensor | None = None
) -> ctypes.Array[ctypes.c_int64]:
    batch, tokens, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    sizes = [batch, tokens, heads, channels, queries, levels, points]
    if reference is not None:
        sizes += [reference.shape[3], levels * queries * reference.shape[3]]
    return _integers(sizes)


@functools.cache
def has_fused() -> bool:
    """Whether the library has the fused kernels; one built from older sources has not."""
    return hasattr(library(), "vmt_deform_attn_fused_forward_f32")


def forward(
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    *,
    isa: str = "auto",
) -> Tensor:
    """Compute ``ms_deform_attn`` on torch's number of CPU threads; arguments already checked.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).
        isa: a key of ISA_NUMBERS; 'auto' takes the best this processor has.

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: the library is missing or lacks ``isa`` on this processor.
    """
    compute = compute_dtype(value.dtype)
    inputs = [tensor.to(compute).contiguous() for tensor in (value, locations, weights)]
    batch, _, heads, channels = value.shape
    out = torch.empty((batch, locations.shape[1], heads * channels), dtype=compute)
    status = _entry("forward", compute)(
        _sizes(value, locations),
        _integers(spatial_shapes),
        *_pointers(*inputs, out),
        torch.get_num_threads(),
        ISA_NUMBERS[isa],
    )
    _check(status)
    return out.to(value.dtype)


def fused_forward(
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    *,
    isa: str = "auto",
) -> Tensor:
    """Compute ``fused_ms_deform_attn`` on torch's number of CPU threads; arguments already checked.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).
        isa: see ``forward``.

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: the library is missing or lacks ``isa`` on this processor.
    """
    if not has_fused():
        return composed_forward(forward, value, spatial_shapes, offsets, logits, reference)
    compute = compute_dtype(value.dtype)
    inputs = [t.to(compute).contiguous() for t in (value, offsets, logits, reference)]
    batch, _, heads, channels = value.shape
    out = torch.empty((batch, offsets.shape[1], heads * channels), dtype=compute)
    status = _entry("fused_forward", compute)(
        _sizes(value, offsets, reference),
        _integers(spatial_shapes),
        *_pointers(*inputs, out),
        torch.get_num_threads(),
        ISA_NUMBERS[isa],
    )
    _check(status)
    return out.to(value.dtype)


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    *,
    isa: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``value``, ``locations`` and ``weights``.

    Every head of every batch entry is summed by one thread in the order of the queries, so the
    result is the same bit for bit whatever the number of threads.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).
        isa: a key of ISA_NUMBERS; 'auto' takes the best this processor has.

    Returns:
        Three tensors, each of the shape and type of its input.

    Raises:
        OpError: the library is missing or lacks ``isa`` on this processor.
    """
    compute = compute_dtype(value.dtype)
    inputs = [t.to(compute).contiguous() for t in (grad_out, value, locations, weights)]
    grads = [torch.empty(tensor.shape, dtype=compute) for tensor in inputs[1:]]
    status = _entry("backward", compute)(
        _sizes(value, locations),
        _integers(spatial_shapes),
        *_pointers(*inputs, *grads),
        torch.get_num_threads(),
        ISA_NUMBERS[isa],
    )
    _check(status)
    return (
        grads[0].to(value.dtype),
        grads[1].to(locations.dtype),
        grads[2].to(weights.dtype),
    )


def fused_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    reference_grad: bool,
    *,
    isa: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``value``, ``offsets``, ``logits`` and ``reference``.

    The same bits whatever the number of threads, as ``backward``.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).
        reference_grad: False: the last gradient is not needed, and empty.
        isa: see ``forward``.

    Returns:
        Four tensors, each of the shape and type of its input.

    Raises:
        OpError: the library is missing or lacks ``isa`` on this processor.
    """
    if not has_fused():
        return composed_backward(
            backward, grad_out, value, spatial_shapes, offsets, logits, reference, reference_grad
        )
    compute = compute_dtype(value.dtype)
    inputs = [t.to(compute).contiguous() for t in (grad_out, value, offsets, logits, reference)]
    grads = [torch.empty(tensor.shape, dtype=compute) for tensor in inputs[1:4]]
    status = _entry("fused_backward", compute)(
        _sizes(value, offsets, reference),
        _integers(spatial_shapes),
        *_pointers(*inputs, *grads),
        torch.get_num_threads(),
        ISA_NUMBERS[isa],
    )
    _check(status)
    places = place_gradients(grads[1], spatial_shapes, offsets, reference, reference_grad)
    return grads[0].to(value.dtype), places[0], grads[2].to(logits.dtype), places[1]
