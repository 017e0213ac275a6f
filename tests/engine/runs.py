"""Real trainings as a person starts them: processes of the console on synthetic videos."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vmt.utils.events import read_json_lines

REPO = Path(__file__).resolve().parents[2]
#: The quick SeqFormer, smaller: a step takes a tenth of a second on one core.
TINY = {
    "MODEL.SEQFORMER.HIDDEN_DIM": "32",
    "MODEL.SEQFORMER.NUM_QUERIES": "6",
    "INPUT.MIN_SIZE_TRAIN": "[64]",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.CLIP_FRAMES": "2",
    "INPUT.CROP_PROB": "0.0",
    "SOLVER.CLIPS_PER_BATCH": "2",
    "DATALOADER.NUM_WORKERS": "0",
    "ENGINE.LOG_PERIOD": "1",
    "ENGINE.TENSORBOARD": "false",
}


def train_command(
    data: Path,
    output: Path,
    *options: str,
    val: Path | None = None,
    config: str = "seqformer_tiny",
    **keys: str,
) -> list[str]:
    """``vmt train`` on a folder of ``write_moving_shapes``; keys as ``SOLVER__BASE_LR="1"``."""
    words = [sys.executable, "-m", "vmt.cli.main", "train"]
    words += ["--config-file", str(REPO / "configs" / "quick" / f"{config}.yaml")]
    words += ["--train", str(data / "annotations.json"), "--output", str(output)]
    words += ["--train-images", str(data / "JPEGImages"), "--num-gpus", "0"]
    if val is not None:
        words += ["--val", str(val / "annotations.json"), "--val-images", str(val / "JPEGImages")]
    settings = TINY | {key.replace("__", "."): value for key, value in keys.items()}
    return [*words, *options, *(word for pair in settings.items() for word in pair)]


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a process with one thread, its output in pipes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=REPO,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str]:
    """Exit status and everything that was said."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def run(command: list[str], timeout: float = 240) -> tuple[int, str]:
    """Start and wait."""
    return finish(start(command), timeout)


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a training has logged a step."""
    path = output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.is_file() and any(line["step"] >= step for line in read_json_lines(path)):
            return
        if process.poll() is not None:
            raise AssertionError(f"ended before step {step}: {finish(process)}")
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come within two minutes")


def scalars(output: Path, name: str = "loss") -> dict[int, Any]:
    """step -> value of a scalar."""
    lines = read_json_lines(output / "metrics.jsonl")
    return {line["step"]: line[name] for line in lines if name in line}
