#!/usr/bin/env python3
r"""Where a training step spends its time and memory, and whether the data keep up.

Moving shapes are written to a temporary folder as JPEG and JSON, so loading means reading, decoding
and augmenting. Each measurement of memory runs in a process of its own. Attempts to make a step
cheaper are measured side by side: one step of each in turn, processor time, ratio to the step of
the same turn as it is.

Example:
    python benchmarks/bench_training.py --config-file configs/quick/seqformer_tiny.yaml
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import REPO, benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.ops.misc import FrozenBatchNorm2d

from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config
from vmt.data.build import build_train_loader
from vmt.data.labels import label_space_from_json
from vmt.engine.hooks import peak_memory_mb
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.parallel import recompute_activations
from vmt.engine.train_loop import Batch, Hook, StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_model
from vmt.utils.device import resolve_device

DEFAULT = "configs/quick/seqformer_tiny.yaml"
SIZE = (240, 426)
TOP = 12
#: A real network whose memory is measured beside the config's.
LARGE = (
    "configs/Base-SeqFormer.yaml",
    [
        *("INPUT.CLIP_FRAMES", "5", "SOLVER.CLIPS_PER_BATCH", "1", "INPUT.AUGMENTATION", "none"),
        *("INPUT.MIN_SIZE_TRAIN", "[192]", "INPUT.MAX_SIZE_TRAIN", "340"),
    ],
)
KINDS = ("plain", "checkpointing")
SMALL = ["INPUT.AUGMENTATION", "none", "INPUT.MIN_SIZE_TRAIN", "[48]", "INPUT.MAX_SIZE_TRAIN", "64"]
DRY_RUN = {
    **{"steps": 1, "loader_batches": 1, "workers": 0, "size": (48, 64), "large": False},
    "warm_ups": 0,
    "overrides": [*SMALL, "INPUT.CLIP_FRAMES", "2", "SOLVER.CLIPS_PER_BATCH", "1"],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = benchmark_parser(__doc__, "training.json")
    parser.add_argument("--config-file", default=str(REPO / DEFAULT))
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after 3 of warm-up")
    parser.add_argument("--loader-batches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2, help="processes that load data")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="the rest stays as --output has it"
    )
    parser.add_argument("--memory", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    parser.set_defaults(size=SIZE, large=True, warm_ups=2)
    args = parse(parser, argv, DRY_RUN)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory(args)))
        return
    content: dict[str, Any] = {"config": Path(args.config_file).stem, **machine()}
    if args.only and args.output.is_file():
        content = json.loads(args.output.read_text()) | content
    with tempfile.TemporaryDirectory() as folder:
        write_moving_shapes(Path(folder), 4, 12, args.size, 0)
        args.data = Path(folder)
        content["frame_size"] = list(args.size)
        content["clips_per_step"] = config(args).SOLVER.CLIPS_PER_BATCH
        for name in args.only or PARTS:
            content[name] = PARTS[name](args)
            print(name, json.dumps(content[name], indent=1), flush=True)
    if "loader" in content and "step" in content:
        rate = content["loader"]["batches_per_second"] * content["step"]["seconds"]
        content["loader_rate_over_step_rate"] = round(rate, 2)
    write_json(args.output, content)


def config(args: argparse.Namespace) -> Any:
    """The config with the benchmark's data in it."""
    annotations = args.data / "annotations.json"
    data = ["DATASETS.TRAIN", f'["{annotations}@{args.data / "JPEGImages"}"]']
    data += ["MODEL.LABEL_SPACE", str(annotations)]
    return load_config(args.config_file, [*data, *args.overrides])


def loader(args: argparse.Namespace, workers: int) -> Iterator[Batch]:
    """Training batches from files."""
    cfg = config(args).clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = workers
    return iter(build_train_loader(cfg, label_space_from_json(cfg.MODEL.LABEL_SPACE)))


def loader_rate(args: argparse.Namespace) -> dict[str, Any]:
    """Batches per second while nothing else runs."""
    batches = loader(args, args.workers)
    for _ in range(4 * max(args.workers, 1)):
        next(batches)
    started = time.perf_counter()
    for _ in range(args.loader_batches):
        next(batches)
    seconds = time.perf_counter() - started
    rate = round(args.loader_batches / seconds, 2)
    return {"workers": args.workers, "batches_per_second": rate}


class Times(Hook):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        """Note the step without the wait for data."""
        self.seconds.append(trainer.last.seconds - trainer.last.data_seconds)


def make_trainer(args: argparse.Namespace, steps: int, recompute: bool = False) -> Trainer:
    """A trainer on the same few batches again and again, so that loading costs nothing."""
    cfg = config(args)
    torch.manual_seed(0)
    device = resolve_device(cfg.MODEL.DEVICE)
    model = build_model(cfg, label_space_from_json(cfg.MODEL.LABEL_SPACE)).to(device)
    if recompute:
        recompute_activations(model)
    batches = list(itertools.islice(loader(args, 0), 3))
    return Trainer(
        model,
        build_optimizer(cfg, model),
        Schedule(steps),
        lambda start: itertools.cycle(batches),
        device,
        options=StepOptions.from_config(cfg),
    )


def step_times(args: argparse.Namespace) -> dict[str, Any]:
    """Median and spread of the time of a step."""
    trainer, times = make_trainer(args, args.steps + 3), Times()
    trainer.hooks.append(times)
    trainer.train()
    seconds = times.seconds[3:]
    return {
        "seconds": round(statistics.median(seconds), 4),
        "fastest": round(min(seconds), 4),
        "slowest": round(max(seconds), 4),
        "steps": len(seconds),
    }


def top_costs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Operators by their own time over three steps."""
    trainer = make_trainer(args, 2)
    trainer.train()
    trainer.schedule = Schedule(5)
    gpu = trainer.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=kinds) as profiler:
        trainer.train()
    field = "self_device_time_total" if gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, field))
    total = sum(getattr(row, field) for row in rows)
    return [
        {
            "operator": row.key,
            "share": round(getattr(row, field) / total, 3),
            "ms_per_step": round(getattr(row, field) / 3e3, 2),
            "calls_per_step": round(row.count / 3, 1),
        }
        for row in rows[:TOP]
    ]


# --- attempts -----------------------------------------------------------------------------------


def as_it_is(trainer: Trainer) -> None:
    """No change."""


def fused_adam(trainer: Trainer) -> None:
    """AdamW in one pass over each parameter."""
    for group in trainer.optimizer.param_groups:
        group.update(fused=True, foreach=False)


def foreach_adam(trainer: Trainer) -> None:
    """AdamW operation by operation over all parameters."""
    for group in trainer.optimizer.param_groups:
        group["foreach"] = True


def channels_last_weights(trainer: Trainer) -> None:
    """Weights of the backbone in the order in which its frames come."""
    trainer.model.get_submodule("backbone").to(memory_format=torch.channels_last)


def folded_norms(trainer: Trainer) -> None:
    """Frozen batch norm as part of the convolution before it."""
    last: nn.Conv2d | None = None
    for module in trainer.model.get_submodule("backbone").modules():
        if isinstance(module, nn.Conv2d):
            last = module
        elif isinstance(module, FrozenBatchNorm2d) and last is not None:
            last.forward = types.MethodType(_folded(module), last)  # type: ignore[method-assign]
            module.forward = nn.Identity().forward  # type: ignore[method-assign]
            last = None


def _folded(norm: FrozenBatchNorm2d) -> Callable[[nn.Conv2d, Tensor], Tensor]:
    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    return forward


#: Name -> change of a trainer; "flush_denormal" and "bf16" are set where they are measured.
ATTEMPTS: dict[str, Callable[[Trainer], None]] = {
    "as it is": as_it_is,
    "fused AdamW": fused_adam,
    "foreach AdamW": foreach_adam,
    "channels_last weights": channels_last_weights,
    "frozen batch norm folded into convolutions": folded_norms,
    "flush_denormal": as_it_is,
    "ENGINE.PRECISION bf16": as_it_is,
}


def attempts(args: argparse.Namespace) -> dict[str, Any]:
    """Processor time of a step with each change, and its ratio to the step as it is."""
    steppers = {}
    for name, change in ATTEMPTS.items():
        changed = argparse.Namespace(**vars(args))
        if "bf16" in name:
            changed.overrides = [*args.overrides, "ENGINE.PRECISION", "bf16"]
        steppers[name] = make_trainer(changed, 1)
        change(steppers[name])
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for turn in range(args.steps + args.warm_ups):
        for name, trainer in steppers.items():
            torch.set_flush_denormal(name == "flush_denormal")
            trainer.schedule = Schedule(trainer.step + 1)
            started = time.process_time()
            trainer.train()
            if turn >= args.warm_ups:
                seconds[name].append(time.process_time() - started)
    torch.set_flush_denormal(False)
    plain = seconds["as it is"]
    return {
        name: {
            "cpu_seconds": round(statistics.median(own), 4),
            "ratio": round(statistics.median([a / b for a, b in zip(own, plain, strict=True)]), 3),
        }
        for name, own in seconds.items()
    }


# --- memory -------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak of this process over a few steps, and their time."""
    trainer, times = make_trainer(args, 2, recompute=args.memory == "checkpointing"), Times()
    before = peak_memory_mb(trainer.device)
    trainer.hooks.append(times)
    trainer.train()
    peak = peak_memory_mb(trainer.device)
    return {
        "peak_mb": round(peak, 1),
        "peak_mb_above_start": round(peak - before, 1),
        "seconds": round(min(times.seconds), 4),
    }


def memory_of(args: argparse.Namespace, config: str, overrides: list[str]) -> dict[str, Any]:
    """``memory`` with and without recomputed activations, in processes of their own."""
    words = ["--config-file", config, "--data", str(args.data)]
    words += ["--threads", str(torch.get_num_threads()), *overrides]
    return {
        kind: measure_apart(__file__, main, ["--memory", kind, *words], args.dry_run)
        for kind in KINDS
    }


def memory_of_r50(args: argparse.Namespace) -> dict[str, Any]:
    """The same for ``LARGE``."""
    path, overrides = LARGE if args.large else (DEFAULT, args.overrides)
    peaks = memory_of(args, str(REPO / path), overrides)
    for row in peaks.values():
        del row["seconds"]  # of one step after a cold start: says little
    return {"config": path, "overrides": overrides, **peaks}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "loader": loader_rate,
    "step": step_times,
    "profile": top_costs,
    "attempts": attempts,
    "memory": lambda args: memory_of(args, args.config_file, args.overrides),
    "memory_r50": memory_of_r50,
}

if __name__ == "__main__":
    sys.exit(run(main))
