"""Compiles the CUDA kernels of deformable attention with NVRTC, and keeps them on disk.

The sources lie in ``csrc``; NVRTC comes with torch's CUDA wheels and is called through NVIDIA's
``cuda-bindings``, imported only when needed. One program serves one combination of value type,
parameter type and head width, and needs no GPU to be compiled.
"""

import functools
import hashlib
import importlib.resources
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.cache import CACHE_VARIABLE, cache_dir
from vmt.utils.errors import OpError, OutputError

logger = logging.getLogger(__name__)

CACHE_MAGIC = b"VMT-CUDA-1\n"
DIGEST_BYTES = hashlib.sha256().digest_size

PROGRAM_SOURCE = "deform_attn.cu"
HEADERS = ("bilinear.h", "gpu_memory.h", "gpu_inputs.h", "gpu_kernel.h")

DEVICE_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
}


class ProgramSpec(NamedTuple):
    """What one compiled program is specialised for.

    Attributes:
        value_type: key of DEVICE_TYPES, of ``value`` and the output.
        param_type: key of DEVICE_TYPES, of the locations and weights; fused: of the logits.
        channels: D, channels of one head.
        fused: reads offsets, logits and reference points.
    """

    value_type: torch.dtype
    param_type: torch.dtype
    channels: int
    fused: bool = False

    def macros(self) -> list[str]:
        """Return the compiler options that specialise the source."""
        return [
            f"-DVMT_VALUE_TYPE={DEVICE_TYPES[self.value_type]}",
            f"-DVMT_PARAM_TYPE={DEVICE_TYPES[self.param_type]}",
            f"-DVMT_HEAD_CHANNELS={self.channels}",
            f"-DVMT_INPUTS={'FusedInputs' if self.fused else 'GivenInputs'}",
        ]


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
