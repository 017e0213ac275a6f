"""Training without files: clips of moving shapes as a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.synthetic import CATEGORIES, shape_clip
from vmt.config.node import load_config
from vmt.engine.adversarial import build_adversary
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.train_loop import Batch, Hook, StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_network
from vmt.structures.labels import LabelSpace

SHAPES = LabelSpace("shapes", CATEGORIES, (1, 2, 3))
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZE = (64, 96)


def quick_config(name: str = "seqformer_tiny", *overrides: str) -> Any:
    """A config of ``configs/quick`` without dropout."""
    fixed = ["MODEL.SEQFORMER.DROPOUT", "0.0", "MODEL.REFINER.DROPOUT", "0.0", *overrides]
    return load_config(CONFIGS / "quick" / f"{name}.yaml", [*fixed, "MODEL.DEVICE", "cpu"])


def empty_clip(clip: dict[str, Any]) -> dict[str, Any]:
    """The same frames without any tracklet."""
    targets = clip["targets"].select(torch.zeros(0, dtype=torch.int64))
    return {**clip, "targets": targets}


def batches(
    start_step: int, clips: int, rank: int = 0, world_size: int = 1, num_frames: int = 2
) -> Iterator[Batch]:
    """Each process's share of the global batches of ``clips`` clips."""
    step = start_step
    while True:
        numbers = range(step * clips, (step + 1) * clips)[rank::world_size]
        yield [shape_clip(num_frames, SIZE, seed) for seed in numbers]
        step += 1


def make_trainer(
    cfg: Any,
    steps: int,
    clips: int = 2,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    **options: Any,
) -> Trainer:
    """A trainer of a quick config over ``batches``, in one process."""
    torch.manual_seed(seed)
    model = build_network(cfg, SHAPES)
    adversary = build_adversary(cfg, torch.device("cpu"))
    options = {"open_loader": lambda start: batches(start, clips), **options}
    return Trainer(
        model,
        build_optimizer(cfg, model),
        Schedule(steps),
        device=torch.device("cpu"),
        hooks=hooks,
        options=StepOptions.from_config(cfg),
        adversary=adversary,
        **options,
    )
