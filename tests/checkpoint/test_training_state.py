"""Checkpoints: whole or not at all, nothing executed, the newest that can be read."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vmt.checkpoint import training_state
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.training_state import (
    CheckpointFolder,
    changed_keys,
    load_state,
    random_state,
    restore_random_state,
    save_state,
    seed_everything,
)
from vmt.utils.errors import CheckpointError, OutputError


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "model": {"a.weight": torch.full((2,), float(step))},
        "optimizer": {"state": {}, "groups": []},
        "rng": [random_state()],
        "config": "A: 1",
    }


def test_a_checkpoint_comes_back_and_is_a_weight_file_too(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path / "new").save(state(7))
    assert path.name == "step_00000007.pth"
    assert load_state(path)["step"] == 7
    assert read_weights(path).state["a.weight"].tolist() == [7.0, 7.0]


@pytest.mark.skipif(os.name != "posix", reason="who may read a file is said otherwise there")
def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_weights({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.safetensors", CheckpointFolder(tmp_path).save(state(1))):
        assert path.stat().st_mode & 0o777 == 0o644


def test_old_ones_go_and_rests_of_killed_writers_too(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(state(1))
    (tmp_path / "step_00000002.pth.x8").write_bytes(b"half")
    (tmp_path / "mine.pth").write_bytes(b"kept")
    for step in (2, 10, 3):
        folder.save(state(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["mine.pth", "step_00000003.pth", "step_00000010.pth"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step_00000001.pth"
    save_state(state(1), path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_state.torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        save_state(state(2), path)
    monkeypatch.undo()
    assert load_state(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_newest_readable_one_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.load_newest() is None
    folder.save(state(1))
    newest = folder.save(state(2))
    newest.write_bytes(newest.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        found = folder.load_newest()
    assert found is not None
    assert found[1]["step"] == 1
    assert "step_00000002.pth: not a complete training checkpoint" in caplog.text
    found[0].write_bytes(b"x")
    with pytest.raises(CheckpointError, match="step_00000002"):
        folder.load_newest()


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {}}, "MODEL.WEIGHTS starts a new training"),
        ([1, 2], "lacks format"),
        ({**state(1), "format": 99}, "format 99 is newer"),
        ({**state(1), "format": 1, "evil": Evil()}, "not a complete training checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=said):
        load_state(path)
    assert "executed" not in capsys.readouterr().out


def test_random_numbers_go_on(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    seed_everything(3)
    random.gauss(0, 1)  # leaves a second number behind
    draw()
    path = CheckpointFolder(tmp_path).save(state(1))
    expected = [*draw(), random.gauss(0, 1)]
    seed_everything(4)
    restore_random_state(load_state(path)["rng"][0])
    assert [*draw(), random.gauss(0, 1)] == expected


def test_changed_settings_are_listed() -> None:
    old = {"A": {"B": 1, "C": [1, 2]}, "OUT": "x", "GONE": 1}
    new = {"A": {"B": 2, "C": [1, 2]}, "OUT": "y", "NEW": 3}
    found = changed_keys(old, new, ["OUT"])
    assert sorted(found) == ["A.B: 1 -> 2", "GONE: 1 -> None", "NEW: None -> 3"]
