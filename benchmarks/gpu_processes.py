"""Steps of ``run_gpu.py`` that start trainings as a person does: ``launch``, ``multi``.

Not a script.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import REPO
from gpu_common import Step, StepError

from tests.engine.runs import TINY
from tests.synthetic import write_moving_shapes

#: Put before a training in its own process: notes where the parameters are and what joins them.
_WITNESS = """
import json, os, sys
import torch, torch.distributed as dist
from vmt.engine.train_loop import Trainer
from vmt.utils import comm
step = Trainer.run_step
def run_step(self, batch):
    step(self, batch)
    config = dist.get_backend_config() if dist.is_initialized() else ""
    note = {
        "parameters": sorted({str(p.device) for p in self.model.parameters()}),
        "backend": str(config),
        "loss": sum(self.last.losses.values()),
        "norm": self.last.gradient_norm,
    }
    with open(os.path.join(os.environ["VMT_WITNESS"], str(comm.rank())), "a") as file:
        file.write(json.dumps(note) + "\\n")
Trainer.run_step = run_step
"""
_MAIN = "from vmt.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"


def training_words(data: Path, output: Path, validate: bool, **keys: str) -> list[str]:
    """``train`` and its options: two steps of the smallest SeqFormer on moving shapes."""
    annotations, images = str(data / "annotations.json"), str(data / "JPEGImages")
    words = ["train", "--config-file", str(REPO / "configs/quick/seqformer_tiny.yaml")]
    words += ["--train", annotations, "--train-images", images, "--output", str(output)]
    if validate:
        words += ["--val", annotations, "--val-images", images]
    settings = TINY | {"SOLVER.MAX_STEPS": "2"} | keys
    return [*words, *(word for pair in settings.items() for word in pair)]


def witnessed(
    step: Step, name: str, starter: Sequence[str], words: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """Run a training and return what each of its processes noted, by rank and step.

    Raises:
        StepError: the training failed.
    """
    folder = step.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "witness.py"
    # processes that a launch starts import this file, too: the witness lies before the guard
    guard = "if __name__ == '__main__':\n    " + _MAIN.strip().replace("\n", "\n    ") + "\n"
    script.write_text(_WITNESS + guard, encoding="utf-8")
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    path = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "VMT_WITNESS": str(notes), "PYTHONPATH": path.strip(os.pathsep)}
    if step.dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, *starter, str(script), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        tail = (done.stdout + done.stderr).strip().splitlines()[-8:]
        raise StepError(f"{name}: status {done.returncode}: " + " | ".join(tail))
    files = sorted(notes.iterdir(), key=lambda path: int(path.name))
    return [[json.loads(line) for line in f.read_text().splitlines()] for f in files]


def check_devices(step: Step, notes: Sequence[Sequence[dict[str, Any]]], backend: str) -> None:
    """Each process alone on its GPU, and joined by ``backend``.

    Raises:
        StepError: they are not.
    """
    for rank, rows in enumerate(notes):
        expected = ["cpu"] if step.dry else [f"cuda:{rank}"]
        for row in rows:
            if row["parameters"] != expected or backend not in row["backend"]:
                raise StepError(
                    f"process {rank} trains on {row['parameters']} over {row['backend']!r}; "
                    f"{expected} over {backend!r} is right."
                )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def launch(step: Step) -> None:
    """One process, by torchrun and by ``--num-gpus``: on the GPU, over NCCL where it is a group."""
    data = step.folder / "data"
    write_moving_shapes(data, 2, 4, (48, 64), 0)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-addr"]
    torchrun += ["127.0.0.1", "--master-port", str(_free_port())]
    gpus = ["--num-gpus", "0" if step.dry else "1"]
    rows = {}
    for name, starter, options, backend in (
        ("torchrun", torchrun, gpus if step.dry else [], "gloo" if step.dry else "nccl"),
        ("num_gpus", [], gpus, ""),
    ):
        validate = name == "num_gpus" and not step.dry
        words = training_words(data, step.folder / name / "run", validate)
        notes = witnessed(step, name, starter, [*words, *options])
        check_devices(step, notes, backend)
        rows[name] = notes[0][-1]
        step.put(**rows)
    step.put(summary=", ".join(f"{k}: {v['parameters'][0]}" for k, v in rows.items()))


def multi(step: Step) -> None:
    """Two processes of a data-parallel training against one process of the same clips."""
    count = 2 if step.dry else torch.cuda.device_count()
    if count < 2:
        step.put(summary="needs two GPUs, there is one", gpus=count)
        return
    data = step.folder / "data"
    write_moving_shapes(data, 4, 4, (48, 64), 0)
    fixed = {"SOLVER.CLIPS_PER_BATCH": "2", "MODEL.SEQFORMER.DROPOUT": "0.0"}
    rows = {}
    for name, number in (("one", 1), ("two", 2)):
        options = ["--num-gpus", str(number)]
        if step.dry:
            options = ["--num-gpus", "0", "--num-processes", str(number)]
        words = training_words(data, step.folder / name / "run", False, **fixed)
        notes = witnessed(step, name, [], [*words, *options])
        if len(notes) != number:
            raise StepError(f"{number} processes were asked for, {len(notes)} trained.")
        check_devices(step, notes, ("gloo" if step.dry else "nccl") if number > 1 else "")
        rows[name] = notes
        step.put(**{name: notes})
    one, two = rows["one"][0], rows["two"]
    norms = [abs(row["norm"] / one[k]["norm"] - 1) for k, row in enumerate(two[0])]
    step.put(gradient_norm_difference=norms)
    if norms[0] > 1e-2:
        raise StepError(f"the first gradient differs by {norms[0]:.1%} from that of one process.")
    step.put(summary=f"gradient norm of two processes within {norms[0]:.1e} of one")
