"""Attention within sequences of unequal length, against a slow loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.devices import NO_GPU
from tests.varlen_kernels import slow, varlen_on_cpu
from vmt.ops import varlen_attention as module
from vmt.ops.varlen_attention import has_flash, has_varlen_attention, varlen_attention

LENGTHS = [[5, 6], [1, 7, 1, 3], [40, 1, 2], [9]]
HEADS, WIDTH, SCALE = 2, 8, 0.3


def make_heads(lengths: list[int], dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """As layers give them: query and key side by side in memory, heads within rows."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, sum(lengths), 3 * HEADS * WIDTH)
    rows = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    return [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in rows.chunk(3, -1)]


def slow_heads(heads: list[Tensor], lengths: list[int]) -> Tensor:
    rows = (x[0].transpose(0, 1).float() for x in heads)
    return slow(*rows, lengths, SCALE).transpose(0, 1)[None]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sequences_read_within_themselves(lengths: list[int], dtype: torch.dtype) -> None:
    heads = make_heads(lengths, dtype)
    with varlen_on_cpu() as calls:
        out = varlen_attention(*heads, lengths, SCALE)
        grads = torch.autograd.grad(out.float().square().sum(), heads)
    kernel = "efficient" if dtype == torch.float32 else "flash"
    assert calls == {kernel: 1, f"{kernel} backward": 1}
    expected = slow_heads(heads, lengths)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(out.float(), expected, **close)
    for one, other in zip(grads, torch.autograd.grad(expected.square().sum(), heads), strict=True):
        torch.testing.assert_close(one, other, **close)


def test_without_gradient_nothing_is_kept_for_one() -> None:
    heads, asked = make_heads([2, 3], torch.float32), []
    with varlen_on_cpu() as calls, torch.no_grad():
        varlen_attention(*heads, [2, 3], SCALE)
        asked.append(calls.with_gradient)
    with varlen_on_cpu() as calls:
        varlen_attention(*heads, [2, 3], SCALE)
        asked.append(calls.with_gradient)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("device", "width", "runs"),
    [
        ("cpu", 16, False),
        ("cuda", 16, True),
        ("cuda", 24, True),
        ("cuda", 12, False),  # of no kernel's step
        ("cuda", 264, False),
    ],
)
def test_what_the_kernels_take(device: str, width: int, runs: bool) -> None:
    assert has_varlen_attention(torch.device(device), width) == runs


@pytest.mark.parametrize(
    ("dtype", "capability", "flash"),
    [
        (torch.bfloat16, (8, 0), True),
        (torch.float16, (9, 0), True),
        (torch.float32, (9, 0), False),
        (torch.float16, (7, 5), False),
    ],
)
def test_flash_attention_is_for_half_types_on_newer_cards(
    dtype: torch.dtype, capability: tuple[int, int], flash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert has_flash(dtype, torch.device("cuda")) == flash
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert not has_flash(dtype, torch.device("cuda"))


def test_no_other_gpus_than_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert not has_varlen_attention(torch.device("cuda"), 16)


@pytest.mark.cuda
@NO_GPU
@pytest.mark.parametrize("lengths", [*LENGTHS, [700, 3, 1500]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flash", [True, False])
def test_gpu_kernels_read_within_sequences(
    lengths: list[int], dtype: torch.dtype, flash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flash:
        monkeypatch.setattr(module, "has_flash", lambda dtype, device: False)
    heads = make_heads(lengths, dtype, "cuda")
    out = varlen_attention(*heads, lengths, SCALE)
    grads = torch.autograd.grad(out.float().square().sum(), heads)
    expected = slow_heads(heads, lengths)
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.03}
    torch.testing.assert_close(out.float(), expected, **close)
    for one, other in zip(grads, torch.autograd.grad(expected.square().sum(), heads), strict=True):
        torch.testing.assert_close(one, other, **close)
