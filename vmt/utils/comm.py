"""Which process this is, and small exchanges between processes; all of it works without any.

What is exchanged here lies on the CPU and goes through gloo, whatever the network runs on: on NCCL
every flag would wait for the GPU. Where others have started the processes with NCCL alone, a group
of gloo is made beside theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_Item = TypeVar("_Item")


def is_distributed() -> bool:
    """Whether torch's process group is up."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Processes of this run, on all machines."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    """Whether this is process 0, the one that writes files."""
    return rank() == 0


@functools.lru_cache(maxsize=1)
def _gloo_beside(world: dist.ProcessGroup) -> dist.ProcessGroup | None:
    """A group for exchanges where the processes of ``world`` have none on the CPU; else None."""
    if "cpu:" in dist.get_backend_config(world):
        return None
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "this process is a member"
    return group


def _group() -> dist.ProcessGroup | None:
    world = dist.group.WORLD if is_distributed() else None
    return _gloo_beside(world) if world is not None else None


def barrier() -> None:
    """Wait until every process is here."""
    any_process(0)


def any_process(flag: int) -> int:
    """The largest ``flag`` of all processes, known to all of them."""
    if world_size() == 1:
        return flag
    value = torch.tensor(flag)
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_group())
    return int(value)


def mean(values: Tensor) -> Tensor:
    """Element by element over processes; a new tensor on the device of ``values``."""
    if world_size() == 1:
        return values.clone()
    total = values.to("cpu", copy=True)
    dist.all_reduce(total, group=_group())
    return (total / world_size()).to(values.device)


def gather(item: _Item) -> list[_Item]:
    """``item`` of every process by rank, known to all of them; small picklable objects."""
    if world_size() == 1:
        return [item]
    items = [item] * world_size()
    dist.all_gather_object(items, item, group=_group())
    return items


def share(items: Sequence[_Item]) -> list[_Item]:
    """The items that fall to this process, dealt one by one."""
    return list(items[rank() :: world_size()])
