"""Kill -9, SIGTERM, full stop: a resumed training is the unbroken one, bit by bit on the CPU."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.runs import finish, run, scalars, start, train_command, wait_for_step
from tests.synthetic import write_moving_shapes
from vmt.checkpoint.files import read_weights
from vmt.checkpoint.training_state import load_state
from vmt.cli.main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_moving_shapes(folder, 3, 5, (64, 96), 0)
    return folder


def equal(one: Any, other: Any, where: str = "") -> None:
    """Exact equality of nested states."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            equal(*pair, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


#: All that draws random numbers or has a memory is on: dropout, augmentation, average, schedule.
KEYS = {
    "SOLVER__MAX_STEPS": "20",
    "SOLVER__MILESTONE_STEPS": "[12]",
    "SOLVER__WARMUP_STEPS": "4",
    "ENGINE__EMA_DECAY": "0.9",
    "ENGINE__CHECKPOINT_PERIOD": "10",
}


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps without a break."""
    output = tmp_path_factory.mktemp("straight") / "out"
    status, said = run(train_command(data, output, **KEYS))
    assert status == 0, said
    return output


def same_end(straight: Path, output: Path) -> None:
    one, other = (load_state(p / "checkpoints" / "step_00000020.pth") for p in (straight, output))
    for state in (one, other):
        state["config"] = state["config"].replace(str(straight), "").replace(str(output), "")
    equal(one, other)
    weights = [read_weights(p / "model_final.safetensors").state for p in (straight, output)]
    equal(*weights)
    assert scalars(straight) == scalars(output)
    assert sorted(scalars(output)) == list(range(1, 21))


@pytest.mark.slow
def test_kill_9_and_resume_equal_an_unbroken_training(
    data: Path, straight: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(train_command(data, output, **KEYS))
    wait_for_step(output, 13, process)  # the newest checkpoint is that of step 10
    process.kill()
    process.communicate()
    names = [path.name for path in (output / "checkpoints").iterdir()]
    assert [n for n in names if n.endswith(".pth")] == ["step_00000010.pth"]
    assert not (output / "model_final.safetensors").exists()
    status, said = run(train_command(data, output, "--resume", **KEYS))
    assert status == 0, said
    assert "step_00000010.pth at step 10" in said
    same_end(straight, output)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_resume_goes_on(
    data: Path, straight: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    keys = {**KEYS, "DATALOADER__NUM_WORKERS": "1"}
    process = start(train_command(data, output, **keys))
    wait_for_step(output, 3, process)
    process.send_signal(number)
    status, said = finish(process)
    assert status == 128 + number, said
    assert "Traceback" not in said
    assert f"{number.name}: stopped at step" in said
    (checkpoint,) = (output / "checkpoints").glob("*.pth")
    assert 3 <= load_state(checkpoint)["step"] < 20
    status, said = run(train_command(data, output, "--resume", **KEYS))
    assert status == 0, said
    same_end(straight, output)


@pytest.mark.slow
def test_a_second_training_does_not_overwrite_the_first(data: Path, straight: Path) -> None:
    status, said = run(train_command(data, straight, **KEYS))
    assert status == 2
    assert "holds checkpoints of an earlier training; --resume" in said
    assert "Traceback" not in said
    status, said = run(train_command(data, straight, "--resume", **KEYS))  # nothing is left to do
    assert status == 0, said


@pytest.mark.slow
def test_another_setting_is_named_on_resume(data: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "checkpoints").mkdir(parents=True)
    content = (straight / "checkpoints" / "step_00000020.pth").read_bytes()
    (output / "checkpoints" / "step_00000020.pth").write_bytes(content)
    keys = {**KEYS, "SOLVER__MAX_STEPS": "21", "SOLVER__BASE_LR": "0.001"}
    status, said = run(train_command(data, output, "--resume", **keys))
    assert status == 0, said
    assert "another setting: SOLVER.BASE_LR: 0.0002 -> 0.001" in said


def test_other_annotations_under_the_same_name_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_moving_shapes(tmp_path / "data", 1, 2, (48, 64), 0)

    def train(*more: str) -> str:
        command = train_command(tmp_path / "data", tmp_path / "out", *more, SOLVER__MAX_STEPS="1")
        caplog.clear()
        assert main(command[3:]) == 0
        return caplog.text

    train()
    assert "other annotations" not in train("--resume")
    file = tmp_path / "data" / "annotations.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert f"was made with other annotations in {file}@" in train("--resume")
