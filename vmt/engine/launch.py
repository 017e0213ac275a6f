"""Processes of a run: one, several on this machine, or those that torchrun or SLURM started."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from vmt.utils import comm
from vmt.utils.device import process_device
from vmt.utils.errors import ConfigError, VmtError
from vmt.utils.signals import handle_stop

#: Status of a process whose error was a user's, as on the console.
USER_ERROR = 2
#: Seconds for the other processes to tell why they fail before the first message counts.
_LINGER = 2.0


class WorkerError(VmtError, RuntimeError):
    """A process of the run failed for a reason that its message gives."""


@dataclass(frozen=True)
class LaunchOptions:
    """Processes that a user asks for, by the names of the options of ``vmt train``.

    Args:
        num_gpus: of each machine; None: 1 where there is one, 0: the CPU.
        num_processes: on the CPU of each machine.
        num_machines: how many.
        machine_rank: number of this machine, from 0.
        dist_url: ``tcp://host:port`` of machine 0; "auto" on a single machine.
    """

    num_gpus: int | None = None
    num_processes: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"


@dataclass(frozen=True)
class Processes:
    """How many processes a run has and where; the meaning of the options is detectron2's.

    Args:
        per_machine: processes on each machine: GPUs, or on CPUs any number.
        machines: how many.
        machine_rank: number of this machine, from 0.
        dist_url: ``tcp://host:port`` of machine 0; "auto" on a single machine.
        device: ``MODEL.DEVICE``: "auto" and "cuda" give every process a GPU of its own, where there
            are GPUs.
        timeout_minutes: after which a process that waits for others fails.

    Raises:
        ConfigError: values that contradict each other or this machine.
    """

    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    device: str = "cpu"
    timeout_minutes: float = 30

    def __post_init__(self) -> None:
        if self.per_machine < 1 or self.machines < 1:
            raise ConfigError(
                f"--num-machines {self.machines} with {self.per_machine} processes each: give at "
                "least 1 of both."
            )
        if not 0 <= self.machine_rank < self.machines:
            raise ConfigError(
                f"--machine-rank {self.machine_rank} must lie in 0 to {self.machines - 1}, the "
                "machines of the run."
            )
        if self.machines > 1 and self.dist_url == "auto":
            raise ConfigError(
                "several machines need --dist-url tcp://HOST:PORT, an address of machine 0 that "
                "all can reach."
            )

    @property
    def total(self) -> int:
        """World size."""
        return self.per_machine * self.machines


def started_by_torchrun() -> bool:
    """Whether the environment already says which process this is."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def launch(main: Callable[..., int], processes: Processes, args: tuple[Any, ...] = ()) -> int:
    """Run ``main(*args)`` in every process of the run.

    Under torchrun this process is one of them already. SIGTERM and SIGINT reach all processes;
    ``main`` decides what they mean.

    Args:
        main: picklable when processes are started; returns the exit status.
        processes: how many, where.
        args: for ``main``, picklable.

    Returns:
        The exit status of process 0 of this machine.

    Raises:
        VmtError: what a process met; a process died.
    """
    if started_by_torchrun():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with _process_group("env://", rank, size, processes):
            return main(*args)
    if processes.total == 1:
        return main(*args)
    url = processes.dist_url
    if url == "auto":
        url = f"tcp://127.0.0.1:{_free_port()}"
    return _spawn(main, processes, url, args)


def _spawn(main: Callable[..., int], processes: Processes, url: str, args: tuple[Any, ...]) -> int:
    messages: SimpleQueue[tuple[int, str]] = mp.get_context("spawn").SimpleQueue()
    with _forwarded_signals() as children:
        context: Any = start_processes(
            _worker,
            args=(main, processes, url, args, messages),
            nprocs=processes.per_machine,
            join=False,
            start_method="spawn",
        )
        children.extend(context.pids())
        try:
            while not context.join():
                pass
        except ProcessRaisedException as error:
            raise _worker_error(messages) or error from None
        except ProcessExitedException as error:
            reason = _worker_error(messages)
            if reason is not None:
                raise reason from None
            how = error.signal_name or f"status {error.exit_code}"
            raise WorkerError(
                f"process {error.error_index} of {processes.per_machine} ended with {how}; the "
                "others were stopped. It may have run out of memory."
            ) from None
    status = 0
    while not messages.empty():
        status = max(status, messages.get()[0])
    return status


def _worker_error(messages: SimpleQueue[tuple[int, str]]) -> WorkerError | None:
    deadline = time.monotonic() + _LINGER
    while messages.empty() and time.monotonic() < deadline:
        time.sleep(0.05)
    while not messages.empty():
        _, text = messages.get()
        if text:
            return WorkerError(text)
    return None


def _worker(
    local: int,
    main: Callable[..., int],
    processes: Processes,
    url: str,
    args: tuple[Any, ...],
    messages: SimpleQueue[tuple[int, str]],
) -> None:
    rank = processes.machine_rank * processes.per_machine + local
    os.environ |= {"LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(processes.per_machine)}
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // processes.per_machine, 1))
    try:
        with _process_group(url, rank, processes.total, processes):
            status = main(*args)
    except VmtError as error:
        messages.put((USER_ERROR, str(error)))
        sys.stdout.flush()
        os._exit(USER_ERROR)  # do not wait for processes that wait for this one
    messages.put((status, ""))
    # All is written. What is left of the interpreter takes down threads of the process group in
    # no fixed order, which now and then aborts the process behind a finished run.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextlib.contextmanager
def _process_group(url: str, rank: int, size: int, processes: Processes) -> Iterator[None]:
    device = process_device(processes.device, size)
    gpu = device if device.type == "cuda" else None
    try:
        dist.init_process_group(
            "gloo" if gpu is None else "cpu:gloo,cuda:nccl",
            init_method=url,
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=processes.timeout_minutes),
            device_id=gpu,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"process {rank} of {size} cannot meet the others at {url} ({reason}); check "
            "--dist-url, --num-machines and --machine-rank on all machines."
        ) from None
    yield
    # Only behind success: after an error the others may never come.
    comm.barrier()
    dist.destroy_process_group()


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[list[int]]:
    """Hand SIGTERM and SIGINT on to the processes in the list and go on waiting for them."""
    children: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    give_back = handle_stop(forward)
    try:
        yield children
    finally:
        give_back()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
