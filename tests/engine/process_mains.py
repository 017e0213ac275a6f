"""What started processes do in tests; a module of its own, as they import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from tests.engine.clips import SHAPES, batches, empty_clip, quick_config
from vmt.engine.adversarial import build_adversary
from vmt.engine.launch import Processes, launch
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.parallel import distribute
from vmt.engine.train_loop import Hook, StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.msts import separability
from vmt.utils import comm
from vmt.utils.errors import ConfigError


def train_and_save(path: str, kind: str, name: str, steps: int, resume: str, overrides: Any) -> int:
    """Train on four clips per step, one of them without objects; keep state and losses."""
    torch.set_num_threads(1)
    cfg = quick_config(name, *overrides)
    torch.manual_seed(0)
    model = build_model(cfg, SHAPES).train()
    with patch.object(separability, "LR", 1e-5):  # a small rate, see test_adversarial
        adversary = build_adversary(cfg, torch.device("cpu"))
    module = distribute(model, kind, torch.device("cpu"))

    def loader(start: int) -> Any:
        for number, whole in enumerate(batches(start, 4), start=start):
            whole[3] = empty_clip(whole[3])
            if number == 1:  # one of two processes sees no object at all
                whole[1] = empty_clip(whole[1])
            yield whole[comm.rank() :: comm.world_size()]

    losses: list[float] = []
    norms: list[float] = []

    class Keep(Hook):
        def after_step(self, trainer: Trainer) -> None:
            values = torch.tensor(list(trainer.last.losses.values()), dtype=torch.float64)
            losses.append(float(comm.mean(values).sum()))
            norms.append(trainer.last.gradient_norm)

    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        Schedule(steps),
        loader,
        torch.device("cpu"),
        module,
        [Keep()],
        StepOptions(cfg.SOLVER.ACCUMULATE, 0.1, cfg.ENGINE.PRECISION),
        adversary=adversary,
    )
    if resume:
        trainer.load_state(torch.load(resume, weights_only=True))
    trainer.train()
    state = trainer.state()
    if comm.is_main():
        torch.save({**state, "losses": losses, "norms": norms}, path)
    return 0


def user_error_in_one(delay: float) -> int:
    """Process 1 meets a user's error; process 0 waits for it."""
    if comm.rank() == 1:
        time.sleep(delay)
        raise ConfigError("process 1 does not like SOLVER.X")
    dist.barrier()
    return 0


def killed_in_one() -> int:
    """Process 1 is killed as for want of memory; process 0 waits for it."""
    if comm.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    return 0


def exchange(folder: str) -> int:
    """Every function of ``comm``."""
    rank = comm.rank()
    found = {
        "size": comm.world_size(),
        "main": comm.is_main(),
        "any": comm.any_process(15 if rank == 1 else 0),
        "none": comm.any_process(0),
        "mean": comm.mean(torch.tensor([float(rank), 2.0])).tolist(),
        "gather": comm.gather({"rank": rank}),
        "gather_none": comm.gather(None if rank == 1 else "x"),
        "share": comm.share([0, 1, 2, 3, 4]),
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    return 3 * rank


def launched(main: str, processes: dict[str, Any], args: tuple[Any, ...]) -> int:
    """``launch`` of a function of this module."""
    return launch(globals()[main], Processes(**processes), args)


def stops_at_a_signal(folder: str) -> int:
    """Goes on until every process has heard of SIGTERM; says so in a file."""
    from vmt.engine.hooks import SignalHook

    class Noting(Hook):
        def after_step(self, trainer: Trainer) -> None:
            (Path(folder) / f"step_{comm.rank()}").write_text(str(trainer.step))

    def endless(start: int) -> Any:
        while True:
            time.sleep(0.02)
            yield next(batches(0, 1))

    torch.set_num_threads(1)
    small = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
    cfg = quick_config("seqformer_tiny", *small)
    model = build_model(cfg, SHAPES).train()
    module = distribute(model, "ddp", torch.device("cpu"))
    optimizer = build_optimizer(cfg, model)
    hooks = [SignalHook(), Noting()]
    trainer = Trainer(
        model, optimizer, Schedule(10**6), endless, torch.device("cpu"), module, hooks
    )
    assert not trainer.train()
    (Path(folder) / f"end_{comm.rank()}").write_text(f"{trainer.step} {trainer.stop_signal}")
    return 128 + trainer.stop_signal
