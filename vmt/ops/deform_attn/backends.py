"""Which back end of deformable attention runs: the forced one, or the fastest that can."""

import functools
import logging
import os
from dataclasses import dataclass
from types import ModuleType

import torch

from vmt.ops.deform_attn import cpu, cuda, reference
from vmt.utils.cache import cache_dir
from vmt.utils.errors import OpError

logger = logging.getLogger(__name__)

BACKEND_VARIABLE = "VMT_DEFORM_ATTN"
AUTO = "auto"
BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "cuda": cuda}


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


def check_backend_name(name: str, origin: str) -> None:
    """Raise OpError where nothing has that name; ``origin`` says who asked."""
    if name != AUTO and name not in BACKENDS:
        raise OpError(
            f"ms_deform_attn: {origin} names no back end; choose auto, {', '.join(BACKENDS)}."
        )


def backend_module(argument: str, device_type: str) -> ModuleType:
    """Return the back end for tensors of a device: the forced one or the fastest.

    Args:
        argument: a key of BACKENDS or 'auto'.
        device_type: of the tensors.

    Raises:
        OpError: the forced one is unknown, not available, or made for another device.
    """
    return BACKENDS[_choose_backend(argument, device_type)]


def _choose_backend(argument: str, device_type: str) -> str:
    if argument == AUTO and BACKEND_VARIABLE not in os.environ:  # messages cost microseconds
        name = AUTO
    else:
        name, origin = _forced_backend(argument)
        check_backend_name(name, origin)
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
