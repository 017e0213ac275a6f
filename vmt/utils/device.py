"""Which device a name means, and which one belongs to a process among several."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class LocalPlace:
    """Which process of its machine a process is.

    Args:
        rank: from 0.
        size: processes of the run on this machine; None where nobody says, as under ``srun``.
    """

    rank: int
    size: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> LocalPlace | None:
        """What torchrun or ``vmt.engine.launch`` (``LOCAL_RANK``) or SLURM says; None: nobody."""
        known = os.environ if environment is None else environment
        for rank, size in (("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("SLURM_LOCALID", "")):
            if rank in known:
                return cls(int(known[rank]), int(known[size]) if size in known else None)
        return None


def resolve_device(name: str) -> torch.device:
    """``auto`` or a torch device name -> a device that works.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"MODEL.DEVICE: {name!r} cannot be used ({reason}); `vmt doctor` shows what can."
        ) from None
    return device


def choose_device(name: str, gpus: int, processes: int, place: LocalPlace | None) -> str:
    """The device of one process of a run; nothing but the arguments decides.

    Args:
        name: ``MODEL.DEVICE``.
        gpus: that this process can see.
        processes: of the run, on all machines.
        place: of this process on its machine; None where it is not known.

    Returns:
        A torch device name; ``cuda:i`` is this process's alone.

    Raises:
        ConfigError: there is no GPU for this process.
    """
    if name not in ("auto", "cuda"):
        if name.startswith("cuda:") and processes > 1:
            raise ConfigError(
                f"MODEL.DEVICE {name} is one GPU, but the run has {processes} processes; with "
                "auto, each takes the GPU of its own number."
            )
        return name
    if not gpus:
        return "cpu" if name == "auto" else name
    if processes == 1:
        return "cuda:0"
    if place is None:
        raise ConfigError(
            f"LOCAL_RANK is not set, so none of the {processes} processes knows its GPU; start "
            "them with torchrun or --num-gpus, or --num-gpus 0 for CPUs."
        )
    if place.size is None and gpus == 1:  # SLURM shows each task its own
        return "cuda:0"
    if max(place.rank + 1, place.size or 0) > gpus:
        raise ConfigError(
            f"{max(place.rank + 1, place.size or 0)} processes on this machine, but it has "
            f"{gpus} GPU{'s' * (gpus > 1)}: start one process per GPU (torchrun "
            f"--nproc-per-node={gpus}), or give --num-gpus 0 for CPUs."
        )
    return f"cuda:{place.rank}"


def process_device(name: str, processes: int) -> torch.device:
    """The device of this process, which becomes torch's current one if it is a GPU.

    Args:
        name: ``MODEL.DEVICE``.
        processes: of the run, on all machines.

    Raises:
        ConfigError: no such device here, or no GPU for this process.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = LocalPlace.from_environment()
    device = resolve_device(choose_device(name, gpus, processes, place))
    if device.type == "cuda":
        # Random numbers of this GPU are kept in checkpoints, and kernels need its context.
        torch.cuda.set_device(device)
    return device


def from_device(tensor: Tensor) -> Tensor:
    """The tensor in the memory of the host, which waits for it.

    What comes from a GPU lies in page-locked memory, as a copy to other memory goes there first.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in the memory of the host, all in one copy, for which it waits once.

    Args:
        tensors: of one device, floating point.

    Returns:
        float32; all share their memory.
    """
    if not tensors:
        return []
    joined = from_device(torch.cat([tensor.detach().flatten().float() for tensor in tensors]))
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; where it comes from the host, that does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def index_on(device: torch.device, rows: Sequence[int] | Tensor) -> Tensor:
    """Indices as int64 on a device, which the host does not wait for.

    Indexing by a list, or by a tensor of the host, would.
    """
    index = rows if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.int64)
    return to_device(index, device)


#: A number, or a row of numbers.
_Row = float | tuple[float, ...]


def constant(values: tuple[_Row, ...], like: Tensor) -> Tensor:
    """``like.new_tensor(values)`` without its copy from the host, for all calls but the first.

    Such a copy makes the host wait for the GPU, and cannot be captured in a CUDA graph.

    Args:
        values: numbers, or rows of them.
        like: gives type and device.

    Returns:
        Without gradient, shared by all callers: not to be written to.
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor:  # traced ones have no storage
        return like.new_tensor(values)
    return _constant(values, like.dtype, like.device)


@functools.lru_cache(maxsize=4096)
def _constant(values: tuple[_Row, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd cannot keep what was made in inference mode
        return torch.tensor(values, dtype=dtype, device=device)
