"""Strips of a map are those of the whole map, made a few at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.ops import strips
from vmt.ops.strips import in_row_strips

CPU = torch.device("cpu")


@pytest.mark.parametrize("height", [1, 31, 64, 65, 130])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_strips_are_the_whole(height: int, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``layers`` 3x3 convolutions read as many rows above and below."""
    monkeypatch.setattr(strips, "STRIP_VALUES", 8)
    monkeypatch.setattr(strips, "MIN_ROWS", 32)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, height, 5, generator=generator)
    weight = torch.randn(2, 2, 3, 3, generator=generator)
    asked: list[tuple[int, int]] = []

    def rows_of(top: int, bottom: int) -> Tensor:
        asked.append((top, bottom))
        part = x[..., top:bottom, :]
        for _ in range(layers):
            part = F.conv2d(part, weight, padding=1)
        return part

    whole = rows_of(0, height)
    asked.clear()
    with torch.no_grad():
        torch.testing.assert_close(in_row_strips(rows_of, height, layers, 1, CPU), whole)
    step = 32 if layers else 8  # without a halo a strip may be low
    starts = list(range(0, height, step))
    assert asked == [(max(s - layers, 0), min(s + step + layers, height)) for s in starts]
    asked.clear()
    torch.testing.assert_close(in_row_strips(rows_of, height, layers, 1, CPU), whole)
    assert asked == [(0, height)], "with gradients all at once"


@torch.no_grad()
def test_strips_are_as_tall_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_VALUES", 1000)
    monkeypatch.setattr(strips, "MIN_ROWS", 2)
    asked: list[int] = []

    def rows_of(top: int, bottom: int) -> Tensor:
        asked.append(bottom - top)
        return torch.zeros(1, 1, bottom - top, 3)

    in_row_strips(rows_of, 50, 0, 100, CPU)
    assert asked == [10] * 5


@torch.no_grad()
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_that_of_the_strips(memory: torch.memory_format) -> None:
    x = torch.randn(2, 4, 70, 3).to(memory_format=memory)
    whole = in_row_strips(lambda a, b: x[..., a:b, :], 70, 0, strips.STRIP_VALUES, CPU)
    assert torch.equal(whole, x)
    assert whole.is_contiguous(memory_format=memory)
