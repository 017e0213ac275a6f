"""The counter of launches and waits sees what a GPU would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.device_counts import DeviceCounts

DEVICE = torch.device("cpu")


def test_launches_are_operators_with_a_kernel() -> None:
    x, weight, bias = torch.ones(4, 3), torch.ones(5, 3), torch.ones(5)
    with torch.inference_mode(), DeviceCounts() as counts:
        y = torch.nn.functional.linear(x, weight, bias)
        y.view(2, 10)[:, ::2].T.unflatten(0, (5, 1)).expand(5, 2, 2)  # views
        torch.empty(3, device=DEVICE)
        torch.relu_(y)
    assert dict(counts.launches) == {"addmm": 1, "relu_": 1}
    assert not counts.waits


def test_what_is_on_the_host_costs_nothing_until_it_goes_up() -> None:
    with DeviceCounts() as counts:
        x = torch.from_numpy(np.ones(3, dtype=np.float32))
        (torch.zeros(3) + x * 2).tolist()
        assert not counts.launches
        moved = x.to(DEVICE, non_blocking=True)
        moved + 1
    assert dict(counts.launches) == {"add": 1}
    assert not counts.waits
    assert counts.uploads == 1


@pytest.mark.parametrize(
    ("ask", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: int(x.max()), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.unique(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu().numpy(), 1),
        (lambda x: (x.cpu() + 1).tolist(), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: torch.tensor([1.0], device=x.device), 1),
        (lambda x: torch.tensor([1.0]), 0),
        (lambda x: torch.tensor([1.0]).to(x.device), 1),
        (lambda x: torch.tensor([1.0]).to(x.device, non_blocking=True), 0),
        (lambda x: x[[0, 2]], 1),
        (lambda x: x[torch.tensor([0, 2])], 1),
        (lambda x: x[torch.tensor([0, 2]).to(x.device, non_blocking=True)], 0),
        (lambda x: x[:2].copy_(torch.ones(2)), 1),
        (lambda x: x.__setitem__(slice(2), torch.ones(2)), 1),
        (lambda x: x.__setitem__(slice(2), 1.0), 0),
        (lambda x: torch.ones(3)[[0, 2]], 0),
        (lambda x: (torch.ones(3)[[0, 2]] + 1).tolist(), 0),
        (lambda x: x.new_zeros(2) + x[:2], 0),
        (lambda x: x[torch.arange(2, device=x.device)], 0),
    ],
)
def test_waits(ask, waits: int) -> None:
    x = torch.arange(6, device=DEVICE).float()
    with DeviceCounts() as counts:
        ask(x)
    assert counts.waits.total() == waits
