"""Multi-scale deformable attention on NVIDIA GPUs: NVRTC compiles the kernels, we launch them.

The sources lie in ``csrc``; NVRTC comes with torch's CUDA wheels and is called through NVIDIA's
``cuda-bindings``, imported only here and only when needed. One program serves one combination of
value type, parameter type and head width. Programs are kept in memory and, per GPU architecture,
in a folder on disk (``cache_dir``).
"""

import ctypes
import functools
import hashlib
import importlib.resources
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmt.ops.deform_attn.reference import compute_dtype
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.cache import CACHE_VARIABLE, cache_dir
from vmt.utils.errors import OpError, OutputError

logger = logging.getLogger(__name__)

CACHE_MAGIC = b"VMT-CUDA-1\n"
DIGEST_BYTES = hashlib.sha256().digest_size

PROGRAM_SOURCE = "deform_attn.cu"
HEADERS = ("bilinear.h", "gpu_kernel.h")
BLOCK_WARPS = 4
WARP_LANES = 32
MAX_GRID_BLOCKS = 2**31 - 1
MAX_LEVELS = 32  # kMaxLevels in csrc/gpu_kernel.h
VECTOR_BYTES = 16  # kVectorBytes in csrc/gpu_kernel.h; the alignment that every tensor needs
MAX_TOKENS = 2**31 - 1
# The oldest architecture with every instruction in use; NVRTC 13 starts here as well.
MIN_ARCH = 75

DEVICE_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
}


class Problem(ctypes.Structure):
    """Argument of both kernels, laid out as ``Problem`` in csrc/gpu_kernel.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("value", "locations", "attention", "out")),
        *(
            (name, ctypes.c_void_p)
            for name in ("grad_out", "grad_value", "grad_locations", "grad_attention")
        ),
        *((name, ctypes.c_longlong) for name in ("batch", "tokens", "heads", "queries")),
        *((name, ctypes.c_int) for name in ("levels", "points")),
        *((name, ctypes.c_int * MAX_LEVELS) for name in ("height", "width", "start")),
    )


@dataclass(frozen=True)
class ProgramSpec:
    """What one compiled program is specialised for.

    Attributes:
        value_type: key of DEVICE_TYPES, of ``value`` and the output.
        param_type: key of DEVICE_TYPES, of the locations and weights.
        channels: D, channels of one head.
    """

    value_type: torch.dtype
    param_type: torch.dtype
    channels: int

    def macros(self) -> list[str]:
        """Return the compiler options that specialise the source."""
        return [
            f"-DVMT_VALUE_TYPE={DEVICE_TYPES[self.value_type]}",
            f"-DVMT_PARAM_TYPE={DEVICE_TYPES[self.param_type]}",
            f"-DVMT_HEAD_CHANNELS={self.channels}",
            f"-DVMT_BLOCK_WARPS={BLOCK_WARPS}",
        ]


def groups_per_block(value_type: torch.dtype, channels: int, *, backward: bool) -> int:
    """Return how many (batch, query, head) one block serves: ``Spread`` of csrc/gpu_kernel.h."""
    widest = VECTOR_BYTES // value_type.itemsize
    if backward:
        widest = min(widest, VECTOR_BYTES // compute_dtype(value_type).itemsize)
    vec = 1
    while 2 * vec <= widest and channels % (2 * vec) == 0:
        vec *= 2
    lanes = 1
    while lanes < channels // vec and lanes < WARP_LANES:
        lanes *= 2
    return BLOCK_WARPS * WARP_LANES // lanes


def _bindings_for_torch() -> str:
    version = torch.version.cuda
    major = "X" if version is None else version.split(".")[0]
    return f"`pip install 'cuda-bindings=={major}.*'` for CUDA {version}"


def compiler_unavailable_reason() -> str | None:
    """Return None where NVRTC can compile (no GPU needed), otherwise why not and what to do."""
    try:
        nvrtc_version()
    except ImportError as error:
        return (
            f"the Python package cuda-bindings is missing ({error}); `pip install 'vmt-vis[cuda]'`"
        )
    except (OSError, RuntimeError) as error:
        return (
            f"NVRTC cannot be loaded ({error}); it comes with the CUDA build of torch, and the "
            f"major version of cuda-bindings must be that of torch's CUDA: {_bindings_for_torch()}"
        )
    return None


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
    return compiler_unavailable_reason()


def _check_nvrtc(result: Any, action: str) -> None:
    if int(result) != 0:
        raise OpError(f"ms_deform_attn: NVRTC failed to {action}: {result.name}.")


@functools.cache
def nvrtc_version() -> tuple[int, int]:
    """Return (major, minor) of the compiler.

    Raises:
        ImportError: cuda-bindings is not installed.
        RuntimeError: the NVRTC library is not found.
    """
    from cuda.bindings import nvrtc

    result, major, minor = nvrtc.nvrtcVersion()
    _check_nvrtc(result, "report its version")
    return major, minor


@functools.cache
def target_option(arch: int) -> str:
    """Return the option that compiles for ``arch``, for instance 'sm_90'.

    A GPU newer than NVRTC gets portable code ('compute_..') that its driver finishes.

    Raises:
        OpError: the GPU is older than every architecture NVRTC knows.
    """
    from cuda.bindings import nvrtc

    result, known = nvrtc.nvrtcGetSupportedArchs()
    _check_nvrtc(result, "list its architectures")
    if arch in known:
        return f"sm_{arch}"
    older = [number for number in known if number < arch]
    if not older:
        version = ".".join(map(str, nvrtc_version()))
        raise OpError(
            f"ms_deform_attn: NVRTC {version} compiles for {min(known)} and newer, this GPU is "
            f"{arch}; install the torch build of an older CUDA, or set VMT_DEFORM_ATTN=reference."
        )
    return f"compute_{max(older)}"


@functools.cache
def _sources() -> dict[str, bytes]:
    folder = importlib.resources.files("vmt.ops.deform_attn") / "csrc"
    return {name: (folder / name).read_bytes() for name in (PROGRAM_SOURCE, *HEADERS)}


def _options(arch: int, spec: ProgramSpec) -> list[str]:
    return [f"--gpu-architecture={target_option(arch)}", "--std=c++17", *spec.macros()]


def compile_program(arch: int, spec: ProgramSpec) -> bytes:
    """Compile both kernels for one architecture; needs no GPU.

    Args:
        arch: compute capability without its point, 90 for 9.0.
        spec: types and head width.

    Returns:
        A cubin, or PTX text where NVRTC does not know ``arch``.

    Raises:
        OpError: the compiler refuses; the message holds its log.
    """
    from cuda.bindings import nvrtc

    sources = _sources()
    result, program = nvrtc.nvrtcCreateProgram(
        sources[PROGRAM_SOURCE],
        PROGRAM_SOURCE.encode(),
        len(HEADERS),
        [sources[name] for name in HEADERS],
        [name.encode() for name in HEADERS],
    )
    _check_nvrtc(result, "take the source")
    try:
        options = [option.encode() for option in _options(arch, spec)]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(result) != 0:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = bytearray(size)
            nvrtc.nvrtcGetProgramLog(program, log)
            text = bytes(log).rstrip(b"\0").decode(errors="replace")
            raise OpError(f"ms_deform_attn: NVRTC cannot compile {spec} for sm_{arch}:\n{text}")
        portable = target_option(arch).startswith("compute_")
        get_size = nvrtc.nvrtcGetPTXSize if portable else nvrtc.nvrtcGetCUBINSize
        get_code = nvrtc.nvrtcGetPTX if portable else nvrtc.nvrtcGetCUBIN
        result, size = get_size(program)
        _check_nvrtc(result, "return the program")
        code = bytearray(size)
        (result,) = get_code(program, code)
        _check_nvrtc(result, "return the program")
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def program_path(arch: int, spec: ProgramSpec) -> Path:
    """Return the cache file: its name holds architecture, sources, options and compiler version."""
    digest = hashlib.sha256()
    for name, source in sorted(_sources().items()):
        digest.update(f"{name}:{len(source)}\n".encode() + source)
    digest.update(repr((_options(arch, spec), nvrtc_version())).encode())
    return cache_dir() / "deform_attn" / f"sm_{arch}-{digest.hexdigest()[:32]}.bin"


def read_cached(path: Path) -> bytes | None:
    """Return the program in ``path``, or None where there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header = len(CACHE_MAGIC) + DIGEST_BYTES
    code = content[header:]
    if content[:header] != CACHE_MAGIC + hashlib.sha256(code).digest():
        logger.warning("%s is damaged; the kernel is compiled again.", path)
        return None
    return code


def write_cached(path: Path, code: bytes) -> None:
    """Write the program so that a reader sees all of it or nothing; a full disk is no error."""
    try:
        make_folder(path.parent)
        with AtomicFile(path, shared=True) as file:
            file.write(CACHE_MAGIC + hashlib.sha256(code).digest() + code)
    except OutputError as error:
        logger.warning(
            "%s The kernel is compiled again in the next process. Set %s to a writable folder.",
            error,
            CACHE_VARIABLE,
        )


def load_program(arch: int, spec: ProgramSpec) -> bytes:
    """Return the compiled program, from disk where it is there, and keep it there otherwise."""
    path = program_path(arch, spec)
    code = read_cached(path)
    if code is None:
        logger.info("Compiling the CUDA kernels of ms_deform_attn: %s for sm_%d.", spec, arch)
        code = compile_program(arch, spec)
        write_cached(path, code)
    return code


def _check_driver(result: Any, action: str) -> None:
    if int(result) != 0:
        raise OpError(f"ms_deform_attn: the CUDA driver failed to {action}: {result.name}.")


@functools.cache
def _primary_context(device_index: int) -> Any:
    """The context of a device that the runtime, and with it torch, uses; kept to the end."""
    from cuda.bindings import driver

    result, device = driver.cuDeviceGet(device_index)
    _check_driver(result, f"find device {device_index}")
    result, context = driver.cuDevicePrimaryCtxRetain(device)
    _check_driver(result, f"open device {device_index}")
    return context


def _ensure_context(device: torch.device) -> None:
    """Give this thread a context where it has none.

    ``torch.cuda.device`` makes none current where the index is the current one already, so a
    thread whose first work is a launch of ours would launch into nothing.
    """
    from cuda.bindings import driver

    result, current = driver.cuCtxGetCurrent()
    _check_driver(result, "name the context")
    if not int(current):
        (result,) = driver.cuCtxSetCurrent(_primary_context(device.index))
        _check_driver(result, "set the context")


#: (device, program, direction) of kernels that ran: loaded by the driver, too, fit for a capture.
_ran: set[tuple[int | None, ProgramSpec, str]] = set()


def _check_capture(direction: str, spec: ProgramSpec, device: torch.device) -> None:
    if (device.index, spec, direction) in _ran or not torch.cuda.is_current_stream_capturing():
        return
    raise OpError(
        f"ms_deform_attn: the {direction} kernel of {spec} has not run on {device} yet, and a CUDA "
        "graph is being captured, in which nothing can be compiled or loaded; run the same once "
        "before, or call vmt.ops.deform_attn.warm_up."
    )


@functools.cache
def _kernel(arch: int, spec: ProgramSpec, direction: str) -> Any:
    """Return the handle of one kernel, fit for every device of ``arch``."""
    from cuda.bindings import driver

    result, library = driver.cuLibraryLoadData(load_program(arch, spec), [], [], 0, [], [], 0)
    if int(result) != 0:
        # The file passed its check sum, yet this driver does not take it: compile once more.
        code = compile_program(arch, spec)
        result, library = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
        _check_driver(result, "load the kernels")
        write_cached(program_path(arch, spec), code)
    result, kernel = driver.cuLibraryGetKernel(library, f"vmt_deform_attn_{direction}".encode())
    _check_driver(result, "find the kernel")
    return driver.CUfunction(int(kernel))


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
        locations: (B, Q, M, L, K, 2).
        weights: (B, Q, M, L, K).
        **pointers: the remaining tensors of ``Problem`` by name.

    Returns:
        The argument.

    Raises:
        OpError: there are more than MAX_LEVELS levels or MAX_TOKENS tokens.
    """
    batch, tokens, heads, _ = value.shape
    levels = len(spatial_shapes) // 2
    if levels > MAX_LEVELS or tokens > MAX_TOKENS:
        raise OpError(
            f"ms_deform_attn: {levels} levels with {tokens} tokens; the CUDA kernels take at most "
            f"{MAX_LEVELS} levels and {MAX_TOKENS} tokens. Use backend='reference'."
        )
    problem = Problem(
        value=value.data_ptr(),
        locations=locations.data_ptr(),
        attention=weights.data_ptr(),
        batch=batch,
        tokens=tokens,
        heads=heads,
        queries=locations.shape[1],
        levels=levels,
        points=locations.shape[4],
        **{name: tensor.data_ptr() for name, tensor in pointers.items()},
    )
    start = 0
    for level in range(levels):
        height, width = spatial_shapes[2 * level : 2 * level + 2]
        problem.height[level], problem.width[level] = height, width
        problem.start[level] = start
        start += height * width
    return problem


def _launch(direction: str, spec: ProgramSpec, problem: Problem, device: torch.device) -> None:
    """Put one kernel on torch's current stream; does not wait for it."""
    from cuda.bindings import driver

    with torch.cuda.device(device):
        _check_capture(direction, spec, device)
        _ensure_context(device)
        major, minor = torch.cuda.get_device_capability(device)
        kernel = _kernel(10 * major + minor, spec, direction)
        groups = problem.batch * problem.queries * problem.heads
        per_block = groups_per_block(
            spec.value_type, spec.channels, backward=direction == "backward"
        )
        blocks = min(-(-groups // per_block), MAX_GRID_BLOCKS)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(problem))
        (result,) = driver.cuLaunchKernel(
            kernel,
            *(blocks, 1, 1),
            *(BLOCK_WARPS * WARP_LANES, 1, 1),
            0,  # bytes of dynamic shared memory
            driver.CUstream(torch.cuda.current_stream(device).cuda_stream),
            ctypes.addressof(arguments),
            0,  # no extra options
        )
    _check_driver(result, f"launch the {direction} kernel")
    _ran.add((device.index, spec, direction))


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
        OpError: the kernels cannot be compiled or launched, or there are too many levels.
    """
    batch, _, heads, channels = value.shape
    out = value.new_empty((batch, locations.shape[1], heads * channels))
    if out.numel() == 0:
        return out
    value = _readable(value)
    locations, weights = _parameters(value, locations, weights)
    problem = make_problem(value, spatial_shapes, locations, weights, out=out)
    spec = ProgramSpec(value.dtype, locations.dtype, channels)
    _launch("forward", spec, problem, value.device)
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
        OpError: the kernels cannot be compiled or launched, or there are too many levels, or
            deterministic algorithms are asked for.
    """
    _check_deterministic()
    return _backward(grad_out, value, spatial_shapes, locations, weights)


def _backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = value.shape[3]
    compute = compute_dtype(value.dtype)
    value = _readable(value)
    params = _parameters(value, locations, weights)
    grad_value = value.new_zeros(value.shape, dtype=compute)
    grad_locations, grad_weights = torch.zeros_like(params[0]), torch.zeros_like(params[1])
    if grad_out.numel() > 0:
        grad_out = _readable(grad_out.to(value.dtype))
        problem = make_problem(
            value,
            spatial_shapes,
            *params,
            grad_out=grad_out,
            grad_value=grad_value,
            grad_locations=grad_locations,
            grad_attention=grad_weights,
        )
        spec = ProgramSpec(value.dtype, params[0].dtype, channels)
        _launch("backward", spec, problem, value.device)
    return (
        grad_value.to(value.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def warm_up(
    device: torch.device | str, channels: int, value_type: torch.dtype, param_type: torch.dtype
) -> None:
    """Compile, load and run both kernels once, so that a CUDA graph can be captured.

    Args:
        device: a GPU.
        channels: D, channels of one head.
        value_type: of ``value``.
        param_type: of locations and weights; float32 under autocast.

    Raises:
        OpError: the kernels cannot be compiled or launched.
    """
    value = torch.zeros(1, 1, 1, channels, dtype=value_type, device=device)
    locations = value.new_zeros((1, 1, 1, 1, 1, 2), dtype=param_type)
    weights = locations[..., 0]
    grad_out = forward(value, (1, 1), locations, weights)
    _backward(grad_out, value, (1, 1), locations, weights)
