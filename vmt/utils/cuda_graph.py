"""CUDA graphs: a GPU is told once what a function launches, and then repeats it in one call.

What runs below the function must be decided by the shapes of its arguments alone: no wait for the
device, and nothing copied from the host.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vmt.utils.errors import ConfigError

#: Graphs that a network keeps: of windows, and of the shorter one at a video's end.
KEPT = 2


class CudaGraphs:
    """Calls functions of a network, and replays those whose arguments had the same shapes before.

    The first call of a kind runs as always, the second is captured, from then on it is replayed:
    windows of a video are many, and a video of another size costs no capture. Results are copies,
    so that nobody reads what a later replay writes.

    Args:
        network: whose weights the functions read; when they change or move, graphs are forgotten.
        name: of the switch that asks for graphs, for messages.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network = network
        self._name = name
        self._weights: object = None
        self._seen: set[object] = set()
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[nn.Module, str]]:
        """A copy of the network has graphs of its own."""
        return CudaGraphs, (self._network, self._name)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``; tensors of a result are copies.

        Args:
            function: a method; gives tensors, in containers or data classes.
            args: tensors of a GPU, None, or what can be hashed.

        Raises:
            ConfigError: the function cannot be captured.
        """
        weights = self._state()
        if weights is None or torch.is_grad_enabled() or not _on_gpu(args):
            return function(*args)
        if weights != self._weights:
            self._graphs.clear()
            self._seen.clear()
            self._weights = weights
        key = _key(function, args)
        if key not in self._seen:
            self._seen.add(key)
            return function(*args)
        graph = self._graphs.pop(key, None) or self._capture(function, args)
        self._graphs[key] = graph
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        return graph(args)

    def _state(self) -> object:
        """What changes with the weights; None where a call cannot be replayed.

        Weights made in inference mode do not say when they change, and hooks want to see layers.
        """
        state: list[tuple[int, int]] = []
        for part in self._network.modules():
            if part._forward_hooks or part._forward_pre_hooks:
                return None
            for tensors in (part._parameters, part._buffers):
                for value in tensors.values():
                    if value is None:
                        continue
                    if value.is_inference():
                        return None
                    state.append((value.data_ptr(), value._version))
        return state

    def _capture(self, function: Callable[..., Any], args: tuple[Any, ...]) -> _Graph:
        try:
            return _Graph(function, args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise ConfigError(
                f"{self._name}: {type(self._network).__name__} cannot be captured in a CUDA graph "
                f"({reason}); leave it off."
            ) from error


def _on_gpu(args: Iterable[Any]) -> bool:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return bool(tensors) and all(is_capturable(tensor.device) for tensor in tensors)


def is_capturable(device: torch.device) -> bool:
    """Whether what runs there can be captured."""
    return device.type == "cuda"


def _key(function: Callable[..., Any], args: Sequence[Any]) -> object:
    """Calls with the same one launch the same."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    kinds = [
        (arg.shape, arg.stride(), arg.dtype, arg.device) if isinstance(arg, Tensor) else arg
        for arg in args
    ]
    device = tensors[0].device.type
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
        getattr(function, "__func__", function),
        tuple(kinds),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        (matmul.allow_tf32, cudnn.allow_tf32),
    )


class _Graph:
    """One captured call.

    Args:
        function: has run with arguments of this kind, so that all is compiled, loaded and made.
        args: its arguments; tensors are copied.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._inputs = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        self._recorded = new_recording()
        # Casts of weights that autocast keeps for the caller would belong to the graph.
        kind = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        autocast = torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            torch.is_autocast_enabled(kind),
            cache_enabled=False,
        )
        self._held = _Held()
        with autocast, self._recorded.capture(), self._held:
            self._outputs = function(*self._inputs)

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """What the function would give."""
        for own, given in zip(self._inputs, args, strict=True):
            if isinstance(own, Tensor):
                own.copy_(given)
        self._recorded.replay()
        return copied(self._outputs)


class Recording:
    """Launches, to be repeated."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self) -> AbstractContextManager[object]:
        """What is launched inside is noted, and not done."""
        # Other threads, which read videos and code masks, may go on.
        return torch.cuda.graph(self._graph, capture_error_mode="thread_local")

    def replay(self) -> None:
        """Do it."""
        self._graph.replay()


#: Makes recordings; tests have one for CPUs.
new_recording: Callable[[], Recording] = Recording


class _Held(TorchDispatchMode):
    """Keeps what is read inside and was there before, which a cache might drop and a graph reads.

    Weights are among it, and constants of layers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: set[int] = set()
        self._tensors: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) not in self._made:
                self._tensors[id(leaf)] = leaf
        out = func(*args, **kwargs)
        self._made.update(id(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


def copied(value: Any, known: dict[int, Tensor] | None = None) -> Any:
    """The same with copies of all tensors; one that is there twice is copied once.

    Args:
        value: tensors, containers and data classes of them, and whatever else, which stays.
        known: copies that were made already, by ``id``.
    """
    known = {} if known is None else known
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = value.clone()
        return known[id(value)]
    if isinstance(value, dict):
        return {name: copied(part, known) for name, part in value.items()}
    if isinstance(value, list):
        return [copied(part, known) for part in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(copied(part, known) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: copied(getattr(value, part.name), known) for part in fields(value)}
        return replace(value, **parts)
    return value
