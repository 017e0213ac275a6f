"""Exchanges between processes, with the other processes made up."""

from __future__ import annotations

from pathlib import Path

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

    def all_reduce(total: Tensor, group: None) -> None:
        total += mine + 10

    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert comm.mean(mine).tolist() == [6, 3]
    assert mine.tolist() == [1, -2], "the given tensor stays"


def test_a_flag_of_any_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comm.any_process(7) == 7

    def all_reduce(value: Tensor, how: dist.ReduceOp, group: None) -> None:
        assert how == dist.ReduceOp.MAX
        value.clamp_(min=15)

    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert comm.any_process(0) == 15


def test_alone_nothing_is_exchanged() -> None:
    assert comm.gather({"a": 1}) == [{"a": 1}]
    assert comm.share([3, 4]) == [3, 4]
    assert (comm.rank(), comm.world_size(), comm.is_main()) == (0, 1, True)


def test_processes_that_others_started_with_nccl_alone_get_a_group_of_gloo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert comm._group() is None
        comm._gloo_beside.cache_clear()
        monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
        beside = comm._group()
        assert beside is not dist.group.WORLD
        assert dist.get_backend(beside) == "gloo"
        assert comm._group() is beside, "made once"
    finally:
        comm._gloo_beside.cache_clear()
        dist.destroy_process_group()
