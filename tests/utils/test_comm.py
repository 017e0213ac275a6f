"""Exchanges between processes, with the other processes made up."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from vmt.utils import comm


def test_items_are_dealt_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "world_size", lambda: 3)
    dealt = []
    for rank in range(3):
        monkeypatch.setattr(comm, "rank", lambda rank=rank: rank)
        dealt.append(comm.share(range(7)))
    assert dealt == [[0, 3, 6], [1, 4], [2, 5]]


def test_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one holds ten more than this one."""
    mine = torch.tensor([1.0, -2.0])
    assert comm.mean(mine).tolist() == [1, -2]

    def all_reduce(total: Tensor) -> None:
        total += mine + 10

    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert comm.mean(mine).tolist() == [6, 3]
    assert mine.tolist() == [1, -2], "the given tensor stays"


def test_a_flag_of_any_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comm.any_process(7) == 7

    def all_reduce(value: Tensor, how: dist.ReduceOp) -> None:
        assert how == dist.ReduceOp.MAX
        value.clamp_(min=15)

    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert comm.any_process(0) == 15


def test_alone_nothing_is_exchanged() -> None:
    assert comm.gather({"a": 1}) == [{"a": 1}]
    assert comm.share([3, 4]) == [3, 4]
    assert (comm.rank(), comm.world_size(), comm.is_main()) == (0, 1, True)
