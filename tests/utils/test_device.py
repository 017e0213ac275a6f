"""Which GPU a process takes: decided from its place on the machine, never from the backend."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.device_counts import DeviceCounts
from vmt.cli.train import add_launch_arguments
from vmt.config.node import load_config
from vmt.engine.job import plan_processes
from vmt.engine.launch import LaunchOptions, Processes
from vmt.utils.device import (
    LocalPlace,
    choose_device,
    constant,
    from_device,
    process_device,
    resolve_device,
    to_host,
)
from vmt.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "gpus", "processes", "place", "device"),
    [
        # --num-gpus 8, or torchrun --nproc-per-node=8: each process its own
        *(("auto", 8, 8, LocalPlace(k, 8), f"cuda:{k}") for k in range(8)),
        # two machines: the place on the machine counts, not the rank in the run
        ("auto", 8, 16, LocalPlace(3, 8), "cuda:3"),
        ("cuda", 2, 2, LocalPlace(1, 2), "cuda:1"),
        # fewer processes than GPUs
        ("auto", 8, 3, LocalPlace(2, 3), "cuda:2"),
        # one process, with and without torchrun
        ("auto", 4, 1, LocalPlace(0, 1), "cuda:0"),
        ("auto", 4, 1, None, "cuda:0"),
        ("cuda:1", 4, 1, None, "cuda:1"),
        ("cuda:1", 4, 1, LocalPlace(0, 1), "cuda:1"),
        # srun --gpus-per-task=1 shows every task one GPU, its own; without, all of them
        ("auto", 1, 4, LocalPlace(3), "cuda:0"),
        ("auto", 4, 4, LocalPlace(3), "cuda:3"),
        # CPUs: no GPU here, or CPUs asked for
        ("auto", 0, 1, None, "cpu"),
        ("auto", 0, 4, LocalPlace(3, 4), "cpu"),
        ("cpu", 8, 4, LocalPlace(3, 4), "cpu"),
        ("cpu", 8, 1, None, "cpu"),
    ],
)
def test_the_place_on_the_machine_decides(
    name: str, gpus: int, processes: int, place: LocalPlace | None, device: str
) -> None:
    assert choose_device(name, gpus, processes, place) == device


@pytest.mark.parametrize(
    ("name", "gpus", "processes", "place", "said"),
    [
        ("auto", 4, 8, LocalPlace(0, 8), "8 processes on this machine, but it has 4 GPUs: .*=4"),
        ("auto", 1, 2, LocalPlace(0, 2), "2 processes on this machine, but it has 1 GPU: .*=1"),
        ("auto", 2, 8, LocalPlace(5), "6 processes on this machine, but it has 2 GPUs"),
        ("cuda:1", 4, 2, LocalPlace(0, 2), "MODEL.DEVICE cuda:1 is one GPU, but .* 2 processes"),
        ("auto", 8, 16, None, "LOCAL_RANK is not set, so none of the 16 processes knows its GPU"),
    ],
)
def test_a_process_without_a_gpu_of_its_own_is_refused(
    name: str, gpus: int, processes: int, place: LocalPlace | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_device(name, gpus, processes, place)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8", "SLURM_LOCALID": "0"}, LocalPlace(3, 8)),
        ({"LOCAL_RANK": "1"}, LocalPlace(1)),
        ({"SLURM_LOCALID": "2", "LOCAL_WORLD_SIZE": "8"}, LocalPlace(2)),
        ({"RANK": "9", "WORLD_SIZE": "16"}, None),
    ],
)
def test_the_environment_tells_the_place(
    environment: dict[str, str], place: LocalPlace | None
) -> None:
    assert LocalPlace.from_environment(environment) == place


@pytest.mark.parametrize("backend", ["gloo", "cpu:gloo,cuda:nccl", "nccl"])
def test_the_backend_string_has_no_part_in_it(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group=None: backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)  # such a device works
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert process_device("auto", 4) == torch.device("cuda:2")
    assert process_device("cpu", 4) == torch.device("cpu")
    assert process_device("cuda:3", 1) == torch.device("cuda:3")
    assert current == [torch.device("cuda:2"), torch.device("cuda:3")]


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: 'cuda:99' cannot be used"):
        resolve_device("cuda:99")
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: 'gpu' cannot be used"):
        process_device("gpu", 1)


def plan(gpus: int, words: str, device: str = "auto") -> Processes:
    parser = argparse.ArgumentParser()
    add_launch_arguments(parser)
    args = parser.parse_args(words.split())
    cpu = args.num_gpus == 0
    cfg: Any = load_config(None, ["MODEL.DEVICE", "cpu" if cpu else device])
    return plan_processes(cfg, LaunchOptions(**vars(args)), gpus)


@pytest.mark.parametrize(
    ("gpus", "words", "device", "per_machine", "given"),
    [
        (8, "--num-gpus 8", "auto", 8, "auto"),
        (8, "--num-gpus 2", "cuda", 2, "cuda"),
        (8, "", "auto", 1, "auto"),
        (8, "", "cuda:1", 1, "cuda:1"),
        (8, "--num-gpus 1", "cuda:1", 1, "cuda:1"),
        (8, "", "cpu", 1, "cpu"),
        (8, "--num-processes 3", "cpu", 3, "cpu"),
        (8, "--num-gpus 0 --num-processes 4", "auto", 4, "cpu"),
        (0, "", "auto", 1, "auto"),
        (0, "--num-processes 2", "auto", 2, "auto"),
    ],
)
def test_options_and_config_plan_the_processes(
    gpus: int, words: str, device: str, per_machine: int, given: str
) -> None:
    planned = plan(gpus, words, device)
    assert (planned.per_machine, planned.device) == (per_machine, given)


@pytest.mark.parametrize(
    ("gpus", "words", "device", "said"),
    [
        (2, "--num-gpus 4", "auto", "--num-gpus 4: this machine has 2"),
        (0, "--num-gpus 1", "auto", "--num-gpus 1: this machine has 0"),
        (8, "--num-gpus 2", "cuda:1", "--num-gpus 2 with MODEL.DEVICE cuda:1"),
        (8, "--num-gpus 1", "cpu", "--num-gpus 1 with MODEL.DEVICE cpu"),
        (8, "--num-gpus 2 --num-processes 2", "auto", "--num-processes goes with --num-gpus 0"),
        (8, "--num-gpus -1", "auto", "give at least 1"),
    ],
)
def test_options_that_contradict_are_refused(gpus: int, words: str, device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(gpus, words, device)


def test_constants_are_made_once_and_serve_autograd() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    with torch.inference_mode():
        first = constant((3, 4.5), like)
    assert first.tolist() == [3, 4.5]
    assert first.dtype == torch.float64
    assert constant((3, 4.5), like) is first
    assert constant((3, 4.5), like.float()).dtype == torch.float32
    assert constant(((1, 2), (3, 4)), like).shape == (2, 2)
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (x * constant((3, 4.5), x.detach())).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 4.5]


def test_constants_of_a_trace_are_not_kept() -> None:
    with FakeTensorMode() as mode:
        constant((7.25, 1.0), mode.from_tensor(torch.zeros(1)))
    assert type(constant((7.25, 1.0), torch.zeros(1))) is torch.Tensor


def test_what_comes_from_a_gpu_is_waited_for_in_pinned_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Any] = []
    there: Any = SimpleNamespace(device=torch.device("cuda:1"), shape=(2, 3), dtype=torch.uint8)
    host = SimpleNamespace(copy_=lambda source, non_blocking: events.append((source, non_blocking)))

    def empty(shape: Any, **options: Any) -> Any:
        events.append((shape, options))
        return host

    monkeypatch.setattr(torch, "empty", empty)
    stream = SimpleNamespace(synchronize=lambda: events.append("waited"))
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: (events.append(device), stream)[1]
    )
    assert from_device(there) is host
    made = ((2, 3), {"dtype": torch.uint8, "pin_memory": True})
    assert events == [made, (there, True), there.device, "waited"]


def test_all_that_comes_together_is_one_copy() -> None:
    tensors = [torch.ones(2, 3), torch.zeros(0, 4), torch.full((), 2.0, dtype=torch.float64)]
    with DeviceCounts() as counts:
        here = to_host(tensors)
    assert counts.waits.total() == 1
    assert [x.shape for x in here] == [x.shape for x in tensors]
    assert [x.tolist() for x in here] == [x.tolist() for x in tensors]
    assert to_host([]) == []
