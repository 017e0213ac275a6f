"""Multi-scale deformable attention on NVIDIA GPUs: fills the kernels' argument and launches them.

``nvrtc.py`` compiles the kernels at first use. The driver is called through NVIDIA's
``cuda-bindings``, imported only when needed.
"""

import ctypes
import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vmt.ops.deform_attn import nvrtc
from vmt.ops.deform_attn.nvrtc import ProgramSpec
from vmt.ops.deform_attn.places import compute_dtype, place_gradients
from vmt.utils.errors import OpError

WARP_LANES = 32
MAX_GRID_BLOCKS = 2**31 - 1
MAX_LEVELS = 32  # kMaxLevels in csrc/gpu_inputs.h
VECTOR_BYTES = 16  # kVectorBytes in csrc/gpu_memory.h; the alignment that every tensor needs
MAX_OFFSET = 2**31 - 1  # offsets inside one image's value are ints
#: Widest heads whose sums fit into shared memory; kTiledChannels in csrc/gpu_kernel.h.
TILED_CHANNELS = 64
# The oldest architecture with every instruction in use; NVRTC 13 starts here as well.
MIN_ARCH = 75

FORWARD, BACKWARD, BACKWARD_TILED = "forward", "backward", "backward_tiled"
#: Warps of a block and rounds of queries that it walks, by kernel; see csrc/gpu_kernel.h.
BLOCKS = {FORWARD: (4, 1), BACKWARD: (4, 1), BACKWARD_TILED: (8, 4)}


class Problem(ctypes.Structure):
    """Argument of all kernels, laid out as ``Problem`` in csrc/gpu_inputs.h."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("value", "locations", "attention", "reference", "out")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in ("grad_out", "grad_value", "grad_locations", "grad_attention")
        ),
        *((name, ctypes.c_longlong) for name in ("batch", "queries", "reference_step")),
        *(
            (name, ctypes.c_int)
            for name in ("tokens", "heads", "levels", "points", "reference_axes")
        ),
        *((name, ctypes.c_int * MAX_LEVELS) for name in ("height", "width", "start")),
    )


def queries_per_block(value_type: torch.dtype, channels: int, kernel: str) -> int:
    """Return how many queries one block serves: ``queries_per_tile`` of csrc/gpu_kernel.h."""
    widest = VECTOR_BYTES // value_type.itemsize
    if kernel != FORWARD:
        widest = min(widest, VECTOR_BYTES // compute_dtype(value_type).itemsize)
    vec = 1
    while 2 * vec <= widest and channels % (2 * vec) == 0:
        vec *= 2
    lanes = 1
    while lanes < channels // vec and lanes < WARP_LANES:
        lanes *= 2
    warps, rounds = BLOCKS[kernel]
    return warps * WARP_LANES // lanes * rounds


def backward_kernel(value: Tensor, queries: int) -> str:
    """Return the kernel for a gradient.

    The tiled one adds up in shared memory what neighbouring queries send to the same tokens. That
    pays where queries are the tokens, which read around themselves; those of a decoder lie anyhow.

    Args:
        value: (B, S, M, D).
        queries: Q.
    """
    _, tokens, _, channels = value.shape
    fits = channels <= TILED_CHANNELS and value.dtype != torch.float64
    return BACKWARD_TILED if fits and queries >= tokens else BACKWARD


@functools.cache
def unavailable_reason() -> str | None:
    """Return None where the kernels can run, otherwise why not and what to do."""
    if torch.version.hip is not None:
        return "this torch is built for ROCm, the kernels are for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < MIN_ARCH:
        return f"the GPU has compute capability {major}.{minor}, 7.5 is needed"
    return nvrtc.compiler_unavailable_reason()


@functools.cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _check_driver(result: Any, action: str) -> None:
    if int(result) != 0:
        raise OpError(f"ms_deform_attn: the CUDA driver failed to {action}: {result.name}.")


@functools.cache
def _primary_context(device_index: int) -> Any:
    """The context of a device that the runtime, and with it torch, uses; kept to the end."""
    result, device = _driver().cuDeviceGet(device_index)
    _check_driver(result, f"find device {device_index}")
    result, context = _driver().cuDevicePrimaryCtxRetain(device)
    _check_driver(result, f"open device {device_index}")
    return context


def _ensure_context(device_index: int) -> None:
    """Give this thread a context where it has none.

    ``torch.cuda.device`` makes none current where the index is the current one already, so a
    thread whose first work is a launch of ours would launch into nothing.
    """
    driver = _driver()
    result, current = driver.cuCtxGetCurrent()
    _check_driver(result, "name the context")
    if not int(current):
        (result,) = driver.cuCtxSetCurrent(_primary_context(device_index))
        _check_driver(result, "set the context")


class Kernel(NamedTuple):
    """A loaded kernel, fit for every device of its architecture.

    Attributes:
        function: handle.
        threads: of a block.
        queries: of a block.
    """

    function: Any
    threads: int
    queries: int


@functools.cache
def _library(arch: int, spec: ProgramSpec) -> Any:
    driver = _driver()
    result, library = driver.cuLibraryLoadData(nvrtc.load_program(arch, spec), [], [], 0, [], [], 0)
    if int(result) != 0:
        # The file passed its check sum, yet this driver does not take it: compile once more.
        code = nvrtc.compile_program(arch, spec)
        result, library = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
        _check_driver(result, "load the kernels")
        nvrtc.write_cached(nvrtc.program_path(arch, spec), code)
    return library


def _load_kernel(arch: int, spec: ProgramSpec, name: str) -> Kernel:
    driver = _driver()
    result, found = driver.cuLibraryGetKernel(
        _library(arch, spec), f"vmt_deform_attn_{name}".encode()
    )
    _check_driver(result, "find the kernel")
    return Kernel(
        function=driver.CUfunction(int(found)),
        threads=BLOCKS[name][0] * WARP_LANES,
        queries=queries_per_block(spec.value_type, spec.channels, name),
    )


#: (device, program, kernel) -> those that ran: loaded by the driver, too, fit for a capture.
_ran: dict[tuple[int, ProgramSpec, str], Kernel] = {}


def _new_kernel(device_index: int, spec: ProgramSpec, name: str) -> Kernel:
    if torch.cuda.is_current_stream_capturing():
        raise OpError(
            f"ms_deform_attn: the {name} kernel of {spec} has not run on cuda:{device_index} yet, "
            "and a CUDA graph is being captured, in which nothing can be compiled or loaded; run "
            "the same once before, or call vmt.ops.deform_attn.warm_up."
        )
    major, minor = torch.cuda.get_device_capability(device_index)
    return _load_kernel(10 * major + minor, spec, name)


@functools.lru_cache(maxsize=1024)
def _sized_problem(
    value_shape: torch.Size, spatial_shapes: tuple[int, ...], locations_shape: torch.Size
) -> Problem:
    """An argument with all sizes and no pointers; shared, not to be written to."""
    batch, tokens, heads, channels = value_shape
    levels = len(spatial_shapes) // 2
    if levels > MAX_LEVELS or tokens * heads * channels > MAX_OFFSET:
        raise OpError(
            f"ms_deform_attn: {levels} levels with S*M*D = {tokens * heads * channels}; the CUDA "
            f"kernels take at most {MAX_LEVELS} levels and {MAX_OFFSET} numbers of one image. Use "
            "backend='reference'."
        )
    problem = Problem(
        batch=batch,
        queries=locations_shape[1],
        tokens=tokens,
        heads=heads,
        levels=levels,
        points=locations_shape[4],
    )
    start = 0
    for level in range(levels):
        height, width = spatial_shapes[2 * level : 2 * level + 2]
        problem.height[level], problem.width[level] = height, width
        problem.start[level] = start
        start += height * width
    return problem


def make_problem(
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    **pointers: Tensor,
) -> Problem:
    """Fill the argument of a kernel; the tensors must outlive its launch.

    Args:
        value: (B, S, M, D), contiguous like all others.
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2); of a fused kernel offsets.
        weights: (B, Q, M, L, K); of a fused kernel logits.
        **pointers: the remaining tensors of ``Problem`` by name.

    Returns:
        The argument.

    Raises:
        OpError: there are more than MAX_LEVELS levels, or an image too large for offsets of 32
            bits. How many images there are does not matter.
    """
    sized = _sized_problem(value.shape, tuple(spatial_shapes), locations.shape)
    problem = Problem.from_buffer_copy(sized)
    problem.value, problem.locations = value.data_ptr(), locations.data_ptr()
    problem.attention = weights.data_ptr()
    for name, tensor in pointers.items():
        setattr(problem, name, tensor.data_ptr())
    reference = pointers.get("reference")
    if reference is not None:
        problem.reference_axes = reference.shape[3]
        problem.reference_step = reference.stride(0) if reference.shape[0] > 1 else 0
    return problem


def _launch(name: str, spec: ProgramSpec, problem: Problem, device: torch.device) -> None:
    """Put one kernel on torch's current stream; does not wait for it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            _launch_here(name, spec, problem, index)
    else:
        _launch_here(name, spec, problem, index)


def _launch_here(name: str, spec: ProgramSpec, problem: Problem, index: int) -> None:
    """``_launch`` on the current device."""
    key = (index, spec, name)
    known = _ran.get(key)
    kernel = known or _new_kernel(index, spec, name)
    _ensure_context(index)
    driver = _driver()
    tiles = problem.batch * problem.heads * -(-problem.queries // kernel.queries)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(problem))
    (result,) = driver.cuLaunchKernel(
        kernel.function,
        *(min(tiles, MAX_GRID_BLOCKS), 1, 1),
        *(kernel.threads, 1, 1),
        0,  # bytes of dynamic shared memory
        driver.CUstream(torch.cuda.current_stream(index).cuda_stream),
        ctypes.addressof(arguments),
        0,  # no extra options
    )
    _check_driver(result, f"launch the {name} kernel")
    if known is None:
        _ran[key] = kernel


def _readable(tensor: Tensor) -> Tensor:
    """Return the tensor contiguous and aligned for vector loads."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % VECTOR_BYTES == 0 else tensor.clone()


def _parameters(value: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return locations and weights in one type: that of ``value``, or else the accumulator's."""
    if not value.dtype == locations.dtype == weights.dtype:
        compute = compute_dtype(value.dtype)
        locations, weights = locations.to(compute), weights.to(compute)
    return _readable(locations), _readable(weights)


def forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute ``ms_deform_attn`` on torch's current stream; arguments already checked.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: the kernels cannot be compiled or launched, or the sizes are too large for them.
    """
    batch, _, heads, channels = value.shape
    out = value.new_empty((batch, locations.shape[1], heads * channels))
    if out.numel() == 0:
        return out
    value = _readable(value)
    locations, weights = _parameters(value, locations, weights)
    problem = make_problem(value, spatial_shapes, locations, weights, out=out)
    _launch(FORWARD, ProgramSpec(value.dtype, locations.dtype, channels), problem, value.device)
    return out


def _check_deterministic() -> None:
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "ms_deform_attn: the CUDA gradient of value is a sum in no fixed order, and "
        "torch.use_deterministic_algorithms(True) is set; pass warn_only=True to train all the "
        "same, or train on the CPU, whose kernels always give the same bits."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise OpError(message)
    warnings.warn(message, stacklevel=2)


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``value``, ``locations`` and ``weights``.

    The gradient of ``value`` is added up by atomic operations in no fixed order, in float32 for
    the half types: two runs may differ in the last bits. Under
    ``torch.use_deterministic_algorithms`` that is an error, or a warning with ``warn_only``.

    Args:
        grad_out: (B, Q, M*D).
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).

    Returns:
        Three tensors, each of the shape and type of its input.

    Raises:
        OpError: the kernels cannot be compiled or launched, or the sizes are too large for them,
            or deterministic algorithms are asked for.
    """
    _check_deterministic()
    kernel = backward_kernel(value, locations.shape[1])
    return _backward(kernel, grad_out, value, spatial_shapes, locations, weights)


def _backward(
    kernel: str,
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    value = _readable(value)
    params = _parameters(value, locations, weights)
    grads = _launch_backward(
        kernel, ProgramSpec(value.dtype, params[0].dtype, value.shape[3]), grad_out, value,
        spatial_shapes, params, [torch.empty_like(x) for x in params],
    )  # fmt: skip
    return (
        grads[0].to(value.dtype),
        grads[1].to(locations.dtype),
        grads[2].to(weights.dtype),
    )


def _launch_backward(
    kernel: str,
    spec: ProgramSpec,
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    params: Sequence[Tensor],
    param_grads: Sequence[Tensor],
    **pointers: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill ``param_grads``, and return them behind the gradient of value, all in sums' type."""
    grad_value = value.new_zeros(value.shape, dtype=compute_dtype(value.dtype))
    if grad_out.numel() == 0:
        return grad_value, param_grads[0].zero_(), param_grads[1].zero_()
    grad_out = _readable(grad_out.to(value.dtype))
    problem = make_problem(
        value,
        spatial_shapes,
        *params,
        grad_out=grad_out,
        grad_value=grad_value,
        grad_locations=param_grads[0],
        grad_attention=param_grads[1],
        **pointers,
    )
    _launch(kernel, spec, problem, value.device)
    return grad_value, param_grads[0], param_grads[1]


def _fused_parameters(
    value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets and reference points in the sums' type, logits in that or the type of ``value``."""
    compute = compute_dtype(value.dtype)
    if logits.dtype not in (compute, value.dtype):
        logits = logits.to(compute)
    reference = reference.to(compute)
    if reference.stride(0) == 0:  # one row for all images: it is read where it lies
        rows = _readable(reference[:1])
        reference = rows.as_strided(reference.shape, (0, *rows.stride()[1:]))
    else:
        reference = _readable(reference)
    return _readable(offsets.to(compute)), _readable(logits), reference


def fused_forward(
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
) -> Tensor:
    """Compute ``fused_ms_deform_attn`` on torch's current stream; arguments already checked.

    Args:
        value: (B, S, M, D).
        spatial_shapes: H_0, W_0, H_1, W_1, ... of the L levels.
        offsets: (B, Q, M, L, K, 2).
        logits: (B, Q, M, L, K).
        reference: (B, Q, L, 2 or 4).

    Returns:
        (B, Q, M*D) in the type of ``value``.

    Raises:
        OpError: as ``forward``.
    """
    batch, _, heads, channels = value.shape
    out = value.new_empty((batch, offsets.shape[1], heads * channels))
    if out.numel() == 0:
        return out
    value = _readable(value)
    offsets, logits, reference = _fused_parameters(value, offsets, logits, reference)
    problem = make_problem(value, spatial_shapes, offsets, logits, out=out, reference=reference)
    spec = ProgramSpec(value.dtype, logits.dtype, channels, fused=True)
    _launch(FORWARD, spec, problem, value.device)
    return out


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

    Raises:
        OpError: as ``backward``.
    """
    _check_deterministic()
    kernel = backward_kernel(value, offsets.shape[1])
    return _fused_backward(
        kernel, grad_out, value, spatial_shapes, offsets, logits, reference, reference_grad
    )


def _fused_backward(
    kernel: str,
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    reference_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value = _readable(value)
    *params, points = _fused_parameters(value, offsets, logits, reference)
    spec = ProgramSpec(value.dtype, params[1].dtype, value.shape[3], fused=True)
    compute = compute_dtype(value.dtype)
    grads = _launch_backward(
        kernel, spec, grad_out, value, spatial_shapes, params,
        [torch.empty_like(x, dtype=compute) for x in params], reference=points,
    )  # fmt: skip
    grad_offsets, grad_reference = place_gradients(
        grads[1], spatial_shapes, offsets, reference, reference_grad
    )
    return grads[0].to(value.dtype), grad_offsets, grads[2].to(logits.dtype), grad_reference


def warm_up(
    device: torch.device | str, channels: int, value_type: torch.dtype, param_type: torch.dtype
) -> None:
    """Compile, load and run every kernel once, so that a CUDA graph can be captured.

    Args:
        device: a GPU.
        channels: D, channels of one head.
        value_type: of ``value``.
        param_type: of locations and weights, or logits; float32 under autocast, where logits are
            of the type of ``value``: those are warmed up as well.

    Raises:
        OpError: the kernels cannot be compiled or launched.
    """
    value = torch.zeros(1, 1, 1, channels, dtype=value_type, device=device)
    places = value.new_zeros((1, 1, 1, 1, 1, 2), dtype=param_type)
    weights = places[..., 0]
    reference = places[:, :, 0, :, 0]
    grad_out = forward(value, (1, 1), places, weights)
    kernels = dict.fromkeys((BACKWARD, backward_kernel(value, 1)))
    for kernel in kernels:
        _backward(kernel, grad_out, value, (1, 1), places, weights)
    for logits in {x.dtype: x for x in (weights, weights.to(value_type))}.values():
        fused_forward(value, (1, 1), places, logits, reference)
        for kernel in kernels:
            _fused_backward(
                kernel, grad_out, value, (1, 1), places, logits, reference, reference_grad=False
            )
