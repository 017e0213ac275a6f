"""A CUDA graph for the CPU: what runs inside is noted, and done again by ``replay``.

As in a real one, arguments are the same memory at every replay, results too, and whoever asks what
the device has computed while it is noted gets an error.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.device_counts import ANSWERS
from vmt.utils import cuda_graph


class RecordedGraph(cuda_graph.Recording):
    """In place of ``Recording``."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def capture(self) -> AbstractContextManager[object]:
        """Note what runs inside."""
        return _Noted(self.steps)

    def replay(self) -> None:
        """Do it again, into the same memory."""
        self.replays += 1
        for func, args, kwargs, out in self.steps:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


class _Noted(TorchDispatchMode):
    def __init__(self, steps: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()
        self._steps = steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ANSWERS:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        with self:  # in inference mode, operators that are made of others come whole
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        if not func.is_view:
            self._steps.append((func, args, kwargs, out))
        return out


def graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """From now on CPUs have graphs; those that are captured."""
    made: list[RecordedGraph] = []

    def new() -> RecordedGraph:
        made.append(RecordedGraph())
        return made[-1]

    monkeypatch.setattr(cuda_graph, "new_recording", new)
    monkeypatch.setattr(cuda_graph, "is_capturable", lambda device: True)
    return made
