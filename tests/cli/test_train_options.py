"""Each option of ``vmt train`` changes what it says, through the command, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.engine.runs import REPO, TINY, scalars
from tests.synthetic import write_moving_shapes
from vmt.checkpoint.files import read_weights, write_weights
from vmt.cli.main import main
from vmt.engine.job import Job
from vmt.engine.launch import Processes
from vmt.inference.load import load_model

QUICK = REPO / "configs" / "quick" / "seqformer_tiny.yaml"
KEYS = [word for pair in TINY.items() for word in pair]
MARK = "coarse.reduce.0.bias"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets whose only videos have one name, of two and of three frames."""
    folder = tmp_path_factory.mktemp("data")
    write_moving_shapes(folder / "train", 1, 2, (48, 64), 0)
    write_moving_shapes(folder / "val", 1, 3, (48, 64), 10)
    return folder


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that masks whole frames and gives every class one half; bears a mark."""
    torch.manual_seed(0)
    space = ["MODEL.LABEL_SPACE", str(data / "train" / "annotations.json")]
    state = load_model(QUICK, None, [*KEYS, *space], "cpu").state_dict()
    for name, value in state.items():
        if name.startswith(("heads.cls.", "coarse.controller.layers.2.")):
            value.zero_()
    state["coarse.controller.layers.2.bias"].fill_(1.0)
    state[MARK].fill_(7.0)
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    write_weights(state, path, {})
    return path


def options(data: Path, *which: str) -> list[str]:
    """``--train`` or ``--val`` with its images."""
    words = []
    for name in which:
        words += [f"--{name}", str(data / name / "annotations.json")]
        words += [f"--{name}-images", str(data / name / "JPEGImages")]
    return words


def train(*words: str) -> int:
    return main(["train", "--config-file", str(QUICK), "--num-gpus", "0", *words])


def test_eval_only_evaluates_these_weights_on_the_validation_set(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    """Scores are one half, three frames are masked, and nothing is trained."""
    words = ["--eval-only", "--weights", str(weights), "--output", str(tmp_path / "out")]
    words += options(data, "train", "val")
    assert train(*words, *KEYS) == 0
    out = tmp_path / "out"
    (path,) = out.glob("inference/**/results.json")  # of the validation set alone
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    assert rows
    assert {round(row["score"], 6) for row in rows} == {0.5}
    assert {len(row["segmentations"]) for row in rows} == {3}
    assert None not in [mask for row in rows for mask in row["segmentations"]]
    assert not list(out.rglob("*.safetensors"))
    assert not (out / "metrics.jsonl").exists()


def test_training_starts_from_the_weights_and_resume_goes_on(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No learning: what comes out is what went in."""
    words = ["--weights", str(weights), "--output", str(tmp_path), *options(data, "train")]
    still = [*KEYS, "SOLVER.BASE_LR", "0.0", "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.MAX_STEPS"]
    assert train(*words, *still, "1") == 0
    state = read_weights(tmp_path / "model_final.safetensors").state
    assert torch.equal(state[MARK], torch.full((8,), 7.0))
    classes = json.loads((tmp_path / "label_space.json").read_text())["categories"]
    assert [row["name"] for row in classes] == ["circle", "square", "triangle"]
    datasets = yaml.safe_load((tmp_path / "config.yaml").read_text())["DATASETS"]
    folder = data / "train"
    assert datasets["TRAIN"] == [f"{folder / 'annotations.json'}@{folder / 'JPEGImages'}"]
    assert "TEST" not in datasets  # the default: none
    assert not list(tmp_path.glob("inference/**/results.json"))  # without --val
    assert train(*words, *still, "2") == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert train("--resume", *words, *still, "2") == 0
    assert list(scalars(tmp_path)) == [1, 2]
    assert "at step 1" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "expected", "device"),
    [
        ("", {"per_machine": 1, "device": "auto"}, "auto"),
        ("--num-gpus 3", {"per_machine": 3, "device": "auto"}, "auto"),
        ("--num-gpus 0", {"per_machine": 1, "device": "cpu"}, "cpu"),
        ("--num-gpus 0 --num-processes 2", {"per_machine": 2, "device": "cpu"}, "cpu"),
        (
            "--num-gpus 4 --num-machines 3 --machine-rank 2 --dist-url tcp://h:5",
            {
                "per_machine": 4,
                "machines": 3,
                "machine_rank": 2,
                "dist_url": "tcp://h:5",
                "device": "auto",
            },
            "auto",
        ),
    ],
)
def test_processes_are_those_asked_for(
    words: str, expected: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of four GPUs, which it has for as long as nothing is started."""
    started = []

    def launch(job: Any, processes: Processes, args: tuple[Job]) -> int:
        del job
        started.append((processes, args[0].config().MODEL.DEVICE))
        return 3

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("vmt.engine.job.launch", launch)
    assert main(["train", "--config-file", str(QUICK), *words.split()]) == 3
    assert started == [(Processes(**expected, timeout_minutes=30), device)]


def test_more_gpus_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config-file", str(QUICK), "--num-gpus", "999"]) == 2
    assert "--num-gpus 999: this machine has" in capsys.readouterr().err
