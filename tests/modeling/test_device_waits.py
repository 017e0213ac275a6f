"""What makes the host wait for a GPU: copies from the host and answers read back, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: A tensor made of Python numbers, which on a GPU is a copy from pageable memory and a wait.
FROM_HOST = "aten.lift_fresh.default"


class Calls(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_tensors_of_python_numbers() -> None:
    with Calls() as calls:
        torch.zeros(2).new_tensor([1.0, 2.0])
        torch.tensor([3])
    assert calls.count[FROM_HOST] == 2


@pytest.mark.parametrize(
    "name",
    [
        "quick/vmt_tiny_released",
        "quick/vmt_tiny",
        "quick/seqformer_tiny",
        "quick/msts_tiny",
        "quick/idol_tiny",
        "quick/minvis_tiny",
        "quick/maskdino_tiny",
        "quick/refinevis_tiny",
    ],
)
def test_a_second_pass_copies_no_constant_to_the_device(name: str, tiny, clip) -> None:
    model = tiny(name, "TEST.FRAME_CHUNK", "2")

    def run() -> None:
        model.predict({"image": clip})

    run()
    with Calls() as calls:
        run()
    assert calls.count.total() > 100
    assert calls.count[FROM_HOST] == 0
