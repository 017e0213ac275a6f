r"""Where a training step spends its time and memory, and whether the data keep up.

Moving shapes are written to a temporary folder as JPEG and JSON, so loading means reading, decoding
and augmenting. Each measurement of memory runs in a process of its own.

Example:
    python benchmarks/bench_training.py --config-file configs/quick/seqformer_tiny.yaml
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

REPO = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path.insert(0, str(REPO))

from benchmarks.common import machine, write_json  # noqa: E402
from tests.synthetic import write_moving_shapes  # noqa: E402
from vmt.config.node import load_config  # noqa: E402
from vmt.data.build import build_train_loader  # noqa: E402
from vmt.data.labels import label_space_from_json  # noqa: E402
from vmt.engine.hooks import peak_memory_mb  # noqa: E402
from vmt.engine.load import resolve_device  # noqa: E402
from vmt.engine.lr_schedule import Schedule  # noqa: E402
from vmt.engine.optimizer import build_optimizer  # noqa: E402
from vmt.engine.parallel import recompute_activations  # noqa: E402
from vmt.engine.train_loop import Batch, Hook, Trainer  # noqa: E402
from vmt.modeling.meta_arch.build import build_model  # noqa: E402

DEFAULT = "configs/quick/seqformer_tiny.yaml"
SIZE = (240, 426)
TOP = 12


def main() -> None:
    """Measure and write ``benchmarks/results/training.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default=str(REPO / DEFAULT))
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after 3 of warm-up")
    parser.add_argument("--loader-batches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2, help="processes that load data")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--output", type=Path, default=REPO / "benchmarks/results/training.json")
    parser.add_argument("--memory", choices=["plain", "checkpointing"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_moving_shapes(Path(folder), 4, 12, SIZE, 0)
        args.data = Path(folder)
        content: dict[str, Any] = {"config": Path(args.config_file).stem, **machine()}
        content["frame_size"] = list(SIZE)
        content["clips_per_step"] = config(args).SOLVER.CLIPS_PER_BATCH
        content["loader"] = loader_rate(args)
        content["step"] = step_times(args)
        content["profile"] = top_costs(args)
        content["memory"] = {kind: in_process(args, kind) for kind in ("plain", "checkpointing")}
    rate = content["loader"]["batches_per_second"] * content["step"]["seconds"]
    content["loader_rate_over_step_rate"] = round(rate, 2)
    write_json(args.output, content)
    print(json.dumps(content, indent=1))


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
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
        precision=cfg.ENGINE.PRECISION,
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


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak of this process over a few steps, and their time."""
    trainer, times = make_trainer(args, 4, recompute=args.memory == "checkpointing"), Times()
    before = peak_memory_mb(trainer.device)
    trainer.hooks.append(times)
    trainer.train()
    peak = peak_memory_mb(trainer.device)
    return {
        "peak_mb": round(peak, 1),
        "peak_mb_above_start": round(peak - before, 1),
        "seconds": round(min(times.seconds), 4),
    }


def in_process(args: argparse.Namespace, kind: str) -> Any:
    """``memory`` in a process of its own."""
    command = [sys.executable, __file__, "--memory", kind, "--config-file", args.config_file]
    command += ["--data", str(args.data), "--threads", str(torch.get_num_threads())]
    done = subprocess.run([*command, *args.overrides], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
