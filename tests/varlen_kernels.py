"""PyTorch's kernels for sequences of unequal length as a slow loop on the CPU, by their schemas."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vmt.layers import transformer
from vmt.ops import varlen_attention as module


def slow(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float) -> Tensor:
    """softmax(q k' scale) v, (P, M, D) each, sequence by sequence."""
    parts = zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    return torch.cat(
        [
            torch.einsum(
                "mst,tmd->smd", (torch.einsum("smd,tmd->mst", q, k) * scale).softmax(-1), v
            )
            for q, k, v in parts
        ]
    )


def _lengths(ends: Tensor, longest: int, tokens: int) -> list[int]:
    assert ends.dtype == torch.int32, "the kernels read 32 bits"
    assert int(ends[0]) == 0
    assert int(ends[-1]) == tokens
    lengths = [b - a for a, b in pairwise(ends.tolist())]
    assert longest == max(lengths), "rows beyond the longest would not be computed"
    return lengths


def _check_rows(*rows: Tensor) -> None:
    for x in rows:
        assert x.stride(-1) == 1, "channels lie side by side"
        assert x.shape[-1] % 8 == 0


def _forward(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float
) -> Tensor:
    _check_rows(query, key, value)
    assert query.dtype == key.dtype == value.dtype, "there is no autocast for them"
    lengths = _lengths(ends, longest, len(query))
    return slow(*(x.float() for x in (query, key, value)), lengths, scale).to(query.dtype)


def _backward(
    grad: Tensor, rows: tuple[Tensor, ...], ends: Tensor, longest: int, scale: float
) -> list[Tensor]:
    """By hand: inside a kernel there is no autograd."""
    _check_rows(grad)
    lengths = _lengths(ends, longest, len(grad))
    grads = []
    for q, k, v, g in zip(*(x.float().split(lengths) for x in (*rows, grad)), strict=True):
        share = (torch.einsum("smd,tmd->mst", q, k) * scale).softmax(-1)
        of_share = torch.einsum("smd,tmd->mst", g, v)
        of_score = share * (of_share - (share * of_share).sum(-1, keepdim=True)) * scale
        grads.append(
            (
                torch.einsum("mst,tmd->smd", of_score, k),
                torch.einsum("mst,smd->tmd", of_score, q),
                torch.einsum("mst,smd->tmd", share, g),
            )
        )
    return [torch.cat(x).to(grad.dtype) for x in zip(*grads, strict=True)]


class Calls(Counter[str]):
    """Of kernels by name.

    Attributes:
        with_gradient: whether the last one kept what a gradient needs.
    """

    with_gradient = False


@contextlib.contextmanager
def varlen_on_cpu() -> Iterator[Calls]:
    """Attention takes a CPU for a GPU, whose kernels are counted."""
    calls = Calls()

    def efficient(
        query: Tensor, key: Tensor, value: Tensor, bias: Any, ends_q: Tensor, ends_k: Tensor,
        longest_q: int, longest_k: int, dropout: float, kind: int, with_gradient: bool = False, *,
        scale: float, **rest: Any,
    ) -> Any:  # fmt: skip
        calls["efficient"] += 1
        calls.with_gradient = with_gradient
        assert (bias, kind, dropout, len(query)) == (None, 0, 0.0, 1)
        assert torch.equal(ends_q, ends_k)
        assert longest_q == longest_k
        out = _forward(query[0], key[0], value[0], ends_q, longest_q, scale)[None]
        nothing = query.new_zeros(0)
        return out, nothing, nothing.long(), nothing.long(), longest_q, longest_k

    def efficient_backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Any, out: Tensor,
        ends_q: Tensor, ends_k: Tensor, longest_q: int, longest_k: int, *args: Any,
        scale: float, **rest: Any,
    ) -> Any:  # fmt: skip
        calls["efficient backward"] += 1
        grads = _backward(grad[0], (query[0], key[0], value[0]), ends_q, longest_q, scale)
        return *(x[None] for x in grads), query.new_zeros(0)

    def flash(
        query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor,
        longest_q: int, longest_k: int, dropout: float, causal: bool, debug: bool, *,
        scale: float, **rest: Any,
    ) -> Any:  # fmt: skip
        calls["flash"] += 1
        assert query.dtype in module.HALF_TYPES
        assert (dropout, causal, debug) == (0.0, False, False)
        out = _forward(query, key, value, ends_q, longest_q, scale)
        nothing = query.new_zeros(0)
        return out, nothing, nothing.to(torch.uint64), nothing.to(torch.uint64), nothing

    def flash_backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor,
        ends_q: Tensor, ends_k: Tensor, longest_q: int, longest_k: int, *args: Any,
        scale: float, **rest: Any,
    ) -> Any:  # fmt: skip
        calls["flash backward"] += 1
        return tuple(_backward(grad, (query, key, value), ends_q, longest_q, scale))

    def has_kernels(device: torch.device, width: int) -> bool:
        return known(torch.device("cuda"), width)

    known = module.has_varlen_attention
    flash_types = mock.patch.object(
        module, "has_flash", lambda dtype, device: dtype in module.HALF_TYPES
    )
    seen = mock.patch.object(transformer, "has_varlen_attention", has_kernels)
    with torch.library._scoped_library("aten", "IMPL") as library, flash_types, seen:
        for name, kernel in (
            ("_efficient_attention_forward", efficient),
            ("_efficient_attention_backward", efficient_backward),
            ("_flash_attention_forward", flash),
            ("_flash_attention_backward", flash_backward),
        ):
            library.impl(name, kernel, "CPU")
        yield calls
