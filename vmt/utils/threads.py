"""How many threads one operation of torch takes on a machine that may have other work to do.

The threads of an operation wait for one another many times a second, and by default they spin while
they wait. Where another program has a core, most of that time is lost: two threads on two busy
cores took three times as long as one (benchmarks/results/threads.json). So the commands let threads
sleep while they wait, and take no more of them than there are free cores. Results do not depend on
it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

#: How long the cores are watched, in seconds.
WATCH_S = 0.2
#: Whoever sets one of these has chosen.
_CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")


def let_threads_sleep() -> None:
    """Make threads that wait for others sleep; works until torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def take_free_cores() -> None:
    """Set the threads of this process to the cores that are free now, at least one.

    Nothing is changed where ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` say how many.
    """
    import torch

    if any(os.environ.get(name) for name in _CHOSEN):
        return
    usable = usable_cores()
    threads = choose_threads(usable, free_cores())
    if threads < usable:
        logger.info(
            "the machine is busy: %d of %d cores %s used (OMP_NUM_THREADS=%d takes all)",
            threads,
            usable,
            "is" if threads == 1 else "are",
            usable,
        )
    torch.set_num_threads(threads)


def map_on_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` for work that one core does faster alone than several share: small tensors.

    Each of torch's threads takes whole items in place of a part of every operation. At most one
    item more than there are threads waits for the caller. Contexts such as ``torch.no_grad`` hold
    for one thread: ``work`` must enter its own.

    Args:
        work: on one item; may run beside others.
        items: in the order of the results.
    """
    import torch

    cores = torch.get_num_threads()
    if cores == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(cores)


def choose_threads(usable: int, free: float | None) -> int:
    """Threads for a process.

    Args:
        usable: cores that it may use.
        free: how many are idle, as a mean over a moment; None where nobody says.
    """
    return usable if free is None else max(min(round(free), usable), 1)


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: by its affinity and by the quota of its container."""
    cores = len(_own_cores() or range(os.cpu_count() or 1))
    quota = _quota(cgroup)
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def free_cores(stat: Path = _STAT, seconds: float = WATCH_S) -> float | None:
    """How many of these cores are idle, as a mean over a moment; None where nobody says."""
    own = _own_cores()
    before = _times(stat, own)
    time.sleep(seconds if before else 0)
    after = _times(stat, own)
    shares = [
        (after[core][0] - idle) / (after[core][1] - total)
        for core, (idle, total) in before.items()
        if core in after and after[core][1] > total
    ]
    return sum(shares) if shares else None


def _own_cores() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()


def _times(stat: Path, own: Collection[int]) -> Mapping[int, tuple[int, int]]:
    """Core -> ticks that it idled, and all of its ticks."""
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    ticks_of = {}
    for line in lines:
        name, *words = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in own:
            ticks = [int(word) for word in words[:8]]
            ticks_of[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))  # idle, waiting for disks
    return ticks_of


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time that a container may take; None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text(encoding="ascii") for name in names).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # "max" in place of a number: no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
