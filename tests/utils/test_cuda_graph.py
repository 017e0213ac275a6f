"""What is captured, when, and what is forgotten; on the CPU, whose graph notes operators."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.device_counts import DeviceCounts
from tests.devices import NO_GPU
from tests.recorded_graph import RecordedGraph, graphs_on_cpu
from vmt.utils import cuda_graph
from vmt.utils.cuda_graph import CudaGraphs, copied
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class Result:
    values: Tensor
    parts: list[Tensor | None]
    size: tuple[int, int]


class Network(nn.Module):
    """Counts how often its code runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.runs = 0

    def forward(self, x: Tensor, shift: float | None = None) -> Result:
        self.runs += 1
        out = torch.relu_(self.layer(x) + (shift or 0.0))
        return Result(out, [out, out.sum(1), None], (int(x.shape[0]), 4))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    return graphs_on_cpu(monkeypatch)


def same(one: Result, other: Result) -> bool:
    parts = [*zip(one.parts[:2], other.parts[:2], strict=True), (one.values, other.values)]
    return all(torch.equal(a, b) for a, b in parts) and one.size == other.size  # type: ignore[arg-type]


@torch.no_grad()
def test_the_second_call_of_a_kind_is_captured_and_the_third_replayed(network, made) -> None:
    graphs = CudaGraphs(network, "GRAPH")
    clips = [torch.randn(5, 3) for _ in range(4)]
    before = [clip.clone() for clip in clips]
    kept: list[Result] = []
    for count, (clip, runs, captured, replays) in enumerate(
        zip(clips, (1, 2, 2, 2), (0, 1, 1, 1), (0, 1, 2, 3), strict=True)
    ):
        kept.append(graphs(network.forward, clip))
        assert network.runs == runs, count
        assert len(made) == captured
        assert sum(graph.replays for graph in made) == replays
    # results of earlier calls are not written by later ones, nor are arguments
    for clip, result in zip(before, kept, strict=True):
        assert same(result, network(clip))
        assert result.parts[0] is result.values, "shared before, shared after"


@torch.no_grad()
@pytest.mark.parametrize("other", ["size", "argument", "autocast", "inference mode", "strides"])
def test_calls_of_another_kind_are_captured_apart(other: str, network, made) -> None:
    graphs, clip = CudaGraphs(network, "GRAPH"), torch.randn(5, 3)
    graphs(network.forward, clip)
    graphs(network.forward, clip)
    assert len(made) == 1
    runs = network.runs
    if other == "size":
        graphs(network.forward, clip[:4])
    elif other == "argument":
        graphs(network.forward, clip, 1.0)
    elif other == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            graphs(network.forward, clip)
    elif other == "inference mode":
        with torch.inference_mode():
            graphs(network.forward, clip)
    else:
        graphs(network.forward, clip.t().contiguous().t())
    assert network.runs == runs + 1
    assert made[0].replays == 1


def change(network: Network, way: str) -> None:
    with torch.no_grad():
        if way == "step":
            network.layer.weight.mul_(2.0)
        elif way == "load":
            network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})
        else:
            network.layer.weight = nn.Parameter(network.layer.weight * 2)


@torch.no_grad()
@pytest.mark.parametrize("way", ["step", "load", "other weight"])
def test_graphs_of_other_weights_are_forgotten(way: str, network, made) -> None:
    graphs, clip = CudaGraphs(network, "GRAPH"), torch.randn(5, 3)
    for _ in range(3):
        before = graphs(network.forward, clip)
    change(network, way)
    after = graphs(network.forward, clip)
    assert not same(before, after)
    for _ in range(3):
        assert same(graphs(network.forward, clip), after)
    assert len(made) == 2


@pytest.mark.parametrize("why", ["gradient", "hook", "pre-hook", "inference weights", "cpu"])
def test_what_cannot_be_replayed_runs_as_always(
    why: str, network, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "hook":
        network.layer.register_forward_hook(lambda *args: None)
    elif why == "pre-hook":
        network.layer.register_forward_pre_hook(lambda *args: None)
    elif why == "inference weights":
        with torch.inference_mode():
            network = Network()
    elif why == "cpu":
        monkeypatch.setattr(cuda_graph, "is_capturable", lambda device: device.type == "cuda")
    graphs = CudaGraphs(network, "GRAPH")
    with torch.inference_mode(why != "gradient"):
        for count in range(1, 4):
            clip = torch.randn(5, 3)
            assert same(graphs(network.forward, clip), network(clip))
            assert network.runs == 2 * count
    assert not made


@torch.no_grad()
def test_few_graphs_are_kept_the_latest(network, made) -> None:
    graphs, sizes = CudaGraphs(network, "GRAPH"), range(2, 3 + cuda_graph.KEPT)
    for size in [*sizes, *sizes]:
        graphs(network.forward, torch.randn(size, 3))
    assert len(made) == len(sizes)
    graphs(network.forward, torch.randn(max(sizes), 3))
    assert len(made) == len(sizes)
    graphs(network.forward, torch.randn(min(sizes), 3))
    assert len(made) == len(sizes) + 1


@torch.no_grad()
def test_who_asks_the_device_is_refused_in_a_sentence(network, made) -> None:
    def asks(x: Tensor) -> Tensor:
        return x * float(x.sum())

    graphs = CudaGraphs(network, "TEST.GRAPH")
    graphs(asks, torch.ones(3))
    with pytest.raises(
        ConfigError, match=r"TEST.GRAPH: Network cannot be captured .*not permitted.*leave it off"
    ):
        graphs(asks, torch.ones(3))


@torch.no_grad()
def test_no_memory_for_a_graph_is_no_memory(network, made, monkeypatch) -> None:
    graphs = CudaGraphs(network, "GRAPH")
    graphs(network.forward, torch.ones(2, 3))

    def none_left(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graph, "_Graph", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        graphs(network.forward, torch.ones(2, 3))


@torch.no_grad()
def test_what_a_graph_reads_outlives_the_cache_it_came_from(network, made) -> None:
    cache = {"shift": torch.full((4,), 3.0)}

    def call(x: Tensor) -> Tensor:
        between = network.layer(x)
        return between + cache["shift"]

    graphs = CudaGraphs(network, "GRAPH")
    for _ in range(2):
        graphs(call, torch.zeros(2, 3))
    (graph,) = graphs._graphs.values()
    held = list(graph._held._tensors.values())
    assert any(tensor is cache["shift"] for tensor in held)
    assert any(tensor is network.layer.weight for tensor in held)
    # what is made between is not among them: it would double the memory
    assert len(held) == 4  # with the bias and the argument


@torch.no_grad()
def test_casts_of_weights_are_in_the_graph_and_not_in_the_callers_cache(network, made) -> None:
    graphs, clip = CudaGraphs(network, "GRAPH"), torch.randn(5, 3)
    behind: list[int] = []

    def call() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            own = graphs(network.forward, clip).values
            with DeviceCounts() as counts:
                out = own + network.layer(clip)
        behind.append(counts.launches["_to_copy"])
        return out

    first = call()
    for _ in range(3):
        assert torch.equal(call(), first)
    casts = [func for func, *_ in made[0].steps if "_to_copy" in str(func)]
    assert len(casts) == 3  # clip, weight and bias
    assert behind == [1, 3, 3, 3]  # without a graph the caller has them already


def test_a_copy_of_the_network_has_graphs_of_its_own(network, made) -> None:
    network.graphs = CudaGraphs(network, "GRAPH")
    with torch.no_grad():
        for _ in range(2):
            network.graphs(network.forward, torch.ones(2, 3))
    other = deepcopy(network)
    assert other.graphs._network is other
    assert not other.graphs._graphs


def test_copies_keep_what_is_no_tensor() -> None:
    x = torch.ones(2)
    value = {"a": (x, 3, None), "b": [x, "text"], "c": torch.float32}
    other = copied(value)
    assert other["a"][1:] == (3, None)
    assert other["b"][1] == "text"
    assert other["c"] is torch.float32
    assert other["a"][0] is other["b"][0] is not x
    assert torch.equal(other["a"][0], x)


@pytest.mark.cuda
@NO_GPU
def test_a_graph_of_a_gpu(network) -> None:
    network = network.cuda()
    graphs = CudaGraphs(network, "GRAPH")
    call: Callable[[Tensor], Result] = lambda x: graphs(network.forward, x)  # noqa: E731
    with torch.no_grad():
        for _ in range(4):
            clip = torch.randn(5, 3, device="cuda")
            assert same(call(clip), Network.forward(network, clip))
    assert network.runs == 4 + 2
