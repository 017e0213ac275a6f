"""Scalars of a run on disk."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vmt.utils.errors import ConfigError, OutputError
from vmt.utils.events import JsonLines, TensorBoard, WeightsAndBiases, read_json_lines


def test_a_resumed_run_repeats_no_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    writer = JsonLines(path)
    for step in range(1, 5):
        writer.write(step, {"loss": step / 2, "bad": float("nan")})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle
    resumed = JsonLines(path, first_step=3)
    resumed.write(3, {"loss": 9.0})
    resumed.close()
    lines = read_json_lines(path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert lines[0]["bad"] is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"metrics\.jsonl"):
        JsonLines(tmp_path / "file" / "metrics.jsonl")


def test_tensorboard_files_appear(tmp_path: Path) -> None:
    writer = TensorBoard(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_wandb_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install wandb"):
        WeightsAndBiases("project", tmp_path, {})


class FakeRun:
    """What ``wandb.init`` gives, as far as the writer knows it."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def log(self, scalars: dict[str, float], *, step: int) -> None:
        assert not self.finished
        self.lines.append((step, scalars))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_settings_scalars_and_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = FakeRun(), []

    def init(**options: Any) -> FakeRun:
        asked.append(options)
        return run

    fake = ModuleType("wandb")
    vars(fake)["init"] = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = tmp_path / "run_7"
    writer = WeightsAndBiases("videos", folder, {"SOLVER": {"BASE_LR": 0.1}})
    writer.write(20, {"loss": 3.5})
    writer.write(40, {"loss": 2.5})
    writer.close()
    (options,) = asked
    # The same id and resume="allow": a resumed training goes on with its own curve.
    assert options == {
        "project": "videos",
        "name": "run_7",
        "id": "run_7",
        "resume": "allow",
        "dir": str(folder),
        "config": {"SOLVER": {"BASE_LR": 0.1}},
    }
    assert run.lines == [(20, {"loss": 3.5}), (40, {"loss": 2.5})]
    assert run.finished == 1
