"""What the steps of ``run_gpu.py`` share: where a step runs, what it reports, clocks and counters.

Not a script.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from vmt.utils.memory import peak_mb

Call = Callable[[], object]
#: Beginnings of names in a profile: what makes the host wait, and what it sends to the device.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


@dataclass
class Step:
    """One step of a run.

    Args:
        folder: of this step's own files.
        dry: on the CPU, at toy size.
        third_party: folder of other people's code, or None.
        results: what is known so far; ``put`` writes it to ``results.json`` in the folder, so that
            a step that runs out of time leaves what it measured.
    """

    folder: Path
    dry: bool = False
    third_party: Path | None = None
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        return torch.device("cpu" if self.dry else "cuda")

    def put(self, **values: Any) -> None:
        """Keep results."""
        self.results.update(values)
        text = json.dumps(self.results, indent=1, default=float)
        (self.folder / "results.json").write_text(text + "\n", encoding="utf-8")

    def size(self, real: Any, toy: Any) -> Any:
        """``toy`` in a dry run, ``real`` otherwise."""
        return toy if self.dry else real


class StepError(Exception):
    """What a step found wrong; one sentence."""


def wait(device: torch.device) -> None:
    """Until the device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall_seconds(call: Call, device: torch.device, repeats: int, warm_ups: int) -> list[float]:
    """Seconds of each call until the device is done; warm-ups come first and are left out."""
    times = []
    for k in range(warm_ups + repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        if k >= warm_ups:
            times.append(time.perf_counter() - started)
    return times


def host_us(calls: Sequence[Call], device: torch.device, rounds: int) -> float:
    """Microseconds until the host is done with a call, while the device has enough to do."""
    for call in calls:
        call()
    wait(device)
    started = time.perf_counter()
    for _ in range(rounds):
        for call in calls:
            call()
    spent = time.perf_counter() - started
    wait(device)
    return spent / (rounds * len(calls)) * 1e6


def device_us(
    calls: Sequence[Call], device: torch.device, replays: int, per_graph: int, graph: bool = True
) -> float:
    """Microseconds of a call on the device, without the host: the median of replays of a graph.

    Args:
        calls: of different inputs, together larger than the caches; taken in turn.
        device: a CPU has no graphs, and the calls are timed one by one.
        replays: of the graph.
        per_graph: calls in it.
        graph: False: they cannot be captured, and are timed one by one as on a CPU.
    """
    for call in calls:
        call()
    wait(device)
    if device.type != "cuda" or not graph:
        spent = [wall_seconds(call, device, 1, 0)[0] for call in calls]
        return statistics.median(spent) * 1e6
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for k in range(per_graph):
            calls[k % len(calls)]()
    captured.replay()
    times = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        captured.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times) / per_graph * 1e3


class OperatorCounts(TorchDispatchMode):
    """Counts operators by name; about the launches of a GPU, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def profiled(call: Call, device: torch.device) -> dict[str, float]:
    """Launches and waits of a call, and the share of its time in which the device worked.

    On a CPU: operators that are no views, answers read back, and nothing about a device.
    """
    if device.type != "cuda":
        with OperatorCounts() as counts:
            call()
        reads = sum(counts.count[f"aten.{n}.default"] for n in ("_local_scalar_dense", "nonzero"))
        return {"operators": counts.count.total(), "reads": reads}
    wait(device)
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        call()
        wait(device)
    wall = time.perf_counter() - started
    events = trace.events() or []
    names = Counter(event.name for event in events)
    on_device = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.device_time_total for event in on_device) * 1e-6
    return {
        "launches": sum(n for name, n in names.items() if name.startswith(_LAUNCHES)),
        "waits": sum(n for name, n in names.items() if name.startswith(_WAITS)),
        "kernels": len(on_device),
        "device_seconds": busy,
        "busy_share_profiled": busy / wall,
    }


def reset_peak(device: torch.device) -> None:
    """Forget the highest allocation so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, float]:
    """Highest allocation and reservation since ``reset_peak``; of a CPU the process's memory."""
    if device.type != "cuda":
        return {"peak_process_mb": peak_mb()}
    return {
        "peak_allocated_mb": torch.cuda.max_memory_allocated(device) / 2**20,
        "peak_reserved_mb": torch.cuda.max_memory_reserved(device) / 2**20,
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value (1 at the least); infinite where not finite."""
    expected = expected.double()
    difference = (actual.double() - expected).abs().max()
    if not difference.isfinite():
        return float("inf")
    return float(difference / expected.abs().max().clamp(min=1.0))


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two sets of pixels; 1 for two empty ones."""
    union = (one | other).sum().item()
    return (one & other).sum().item() / union if union else 1.0
