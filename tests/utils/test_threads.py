"""Threads of torch: as many as there are free cores, unless somebody chose."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.synthetic import moving_shapes
from vmt.cli import main as entry
from vmt.inference.mask_refiner import MaskRefiner
from vmt.utils import threads


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("usable", "free", "expected"),
    [(2, None, 2), (2, 1.9, 2), (2, 1.4, 1), (2, 0.0, 1), (8, 5.6, 6), (4, 30.0, 4), (1, 0.9, 1)],
)
def test_as_many_threads_as_free_cores(usable: int, free: float | None, expected: int) -> None:
    assert threads.choose_threads(usable, free) == expected


@pytest.mark.parametrize("cores", [1, 3])
def test_items_go_to_cores_and_results_keep_their_order(cores: int) -> None:
    torch.set_num_threads(cores)
    drawn: list[int] = []
    together = threading.Barrier(cores)

    def items():
        for n in range(7):
            drawn.append(n)
            yield n

    def work(n: int) -> tuple[int, int]:
        if n < cores:
            together.wait(timeout=20)  # so many are at work at once
        return n * n, torch.get_num_threads()

    done = threads.map_on_cores(work, items())
    assert next(done) == (0, 1)
    assert len(drawn) == (1 if cores == 1 else cores + 1)  # no more wait than that
    assert list(done) == [(n * n, 1) for n in range(1, 7)]
    assert torch.get_num_threads() == cores


def test_an_item_that_fails_leaves_the_threads_as_they_were() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        list(threads.map_on_cores(lambda n: 1 // n, [3, 2, 0, 1]))
    assert torch.get_num_threads() == 2


def write_stat(path: Path, idle: dict[int, int], total: int) -> None:
    """``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
    rows = ["cpu 9 9 9 9 9 9 9 9 9 9"]
    for core, ticks in idle.items():
        rows.append(f"cpu{core} {total - ticks - 3} 1 1 {ticks - 2} 2 0 0 1 7 7")
    path.write_text("\n".join([*rows, "intr 5 6", ""]))


def test_free_cores_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    stat = tmp_path / "stat"
    write_stat(stat, {0: 100, 1: 100, 2: 100, 3: 100}, 1000)
    # In the next 40 ticks, core 1 idles 30 and core 3 idles 10; the others are not ours.
    later = threading.Timer(0.1, write_stat, (stat, {0: 140, 1: 130, 2: 140, 3: 110}, 1040))
    later.start()
    assert threads.free_cores(stat, seconds=0.4) == pytest.approx(0.75 + 0.25)
    later.join()
    assert threads.free_cores(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "900000 100000\n"}, 4),
    ],
)
def test_usable_cores(tmp_path: Path, monkeypatch, files: dict[str, str], expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.usable_cores(tmp_path) == expected


def test_who_chose_keeps_it(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "free_cores", lambda: 0.3)
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.take_free_cores()
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    with caplog.at_level(logging.INFO):
        threads.take_free_cores()
    assert torch.get_num_threads() == 1
    assert "the machine is busy: 1 of 2 cores is used (OMP_NUM_THREADS=2 takes all)" in caplog.text


def test_the_console_lets_threads_sleep(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert entry.main(["zoo"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    entry.main(["zoo"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_masks_do_not_depend_on_threads() -> None:
    video = moving_shapes(2, (48, 64), seed=3)
    coarse = np.roll(video.masks, 2, axis=-1)
    refiner = MaskRefiner.from_pretrained(device="cpu")
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(refiner.refine(video.frames, coarse).masks)
    assert (found[0] != coarse).any()
    assert np.array_equal(*found)
