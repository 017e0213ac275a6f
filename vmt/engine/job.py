"""A training or an evaluation from the console: its processes, its log, its exit status."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from vmt.config.find import find_config
from vmt.config.node import load_config
from vmt.engine.evaluate import evaluate_set, set_titles
from vmt.engine.launch import LaunchOptions, Processes, launch, started_by_torchrun
from vmt.engine.run import LOG, TrainingRun
from vmt.evaluation.expected import unmet
from vmt.inference.load import model_from_config
from vmt.modeling.meta_arch.build import build_model
from vmt.utils import comm
from vmt.utils.atomic import make_folder
from vmt.utils.device import process_device
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every process of a run is to do.

    Args:
        config_file: YAML, or a name of ``vmt configs``.
        overrides: alternating keys and values.
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, if there is one.
        eval_only: evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.
        cpu: do without GPUs.
    """

    config_file: str | None
    overrides: tuple[str, ...] = ()
    resume: bool = False
    eval_only: bool = False
    cpu: bool = False

    def config(self) -> CfgNode:
        """The frozen config."""
        device = ("MODEL.DEVICE", "cpu") if self.cpu else ()
        return load_config(self.config_file, [*self.overrides, *device])

    @property
    def beside(self) -> Path | None:
        """Folder of the config file."""
        return find_config(self.config_file).parent if self.config_file else None


def run_job(job: Job, options: LaunchOptions) -> int:
    """Start the processes that the options ask for and do the job in each of them.

    Args:
        job: what to do; its ``cpu`` is overruled by the options.
        options: the processes that are asked for.

    Returns:
        0; 1 when ``TEST.EXPECTED_RESULTS`` do not hold; 128 + n when signal n ended the training.
    """
    job = Job(job.config_file, job.overrides, job.resume, job.eval_only, cpu=options.num_gpus == 0)
    cfg = job.config()
    return launch(do_job, plan_processes(cfg, options, torch.cuda.device_count()), (job,))


def plan_processes(cfg: CfgNode, options: LaunchOptions, gpus: int) -> Processes:
    """The processes of a run that neither torchrun nor SLURM starts.

    Args:
        cfg: its ``MODEL.DEVICE`` is read.
        options: the processes that are asked for.
        gpus: of this machine.

    Raises:
        ConfigError: options that contradict each other, the config or this machine.
    """
    device, asked = cfg.MODEL.DEVICE, options.num_gpus or 0
    if options.num_gpus is None and device in ("auto", "cuda"):
        asked = min(gpus, 1)
    if asked > 0 and options.num_processes > 1:
        raise ConfigError(
            f"--num-gpus {asked} with --num-processes {options.num_processes}: processes are "
            "counted by GPUs; --num-processes goes with --num-gpus 0."
        )
    if asked > gpus and not started_by_torchrun():
        raise ConfigError(
            f"--num-gpus {asked}: this machine has {gpus}; --num-gpus 0 --num-processes N runs on "
            "CPUs."
        )
    if device == "cpu" if asked == 1 else asked > 1 and device not in ("auto", "cuda"):
        raise ConfigError(
            f"--num-gpus {asked} with MODEL.DEVICE {device}: leave one of them out; with auto, "
            "each process takes the GPU of its own number."
        )
    return Processes(
        per_machine=asked or options.num_processes,
        machines=options.num_machines,
        machine_rank=options.machine_rank,
        dist_url=options.dist_url,
        device=device,
    )


def do_job(job: Job) -> int:
    """The job of one process; see ``run_job``."""
    cfg = job.config()
    output = make_folder(Path(cfg.OUTPUT_DIR))
    handler = _log_to(output / LOG)
    try:
        return evaluate_only(cfg, job.beside) if job.eval_only else train(cfg, job)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def train(cfg: CfgNode, job: Job) -> int:
    """Train what a config describes; see ``run_job``."""
    run = TrainingRun(cfg, job.beside, job.resume)
    complete = run.trainer.train()
    if not complete:
        name = signal.Signals(run.trainer.stop_signal).name
        logger.warning(
            "%s: stopped at step %d of %d, everything is saved; --resume goes on from here.",
            name,
            run.trainer.step,
            run.trainer.max_steps,
        )
        return 128 + run.trainer.stop_signal
    return _verify(cfg, run.results)


def evaluate_only(cfg: CfgNode, beside: Path | None = None) -> int:
    """Evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TEST``; see ``run_job``."""
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set, or my.json@my/images.")
    device = process_device(cfg.MODEL.DEVICE, comm.world_size())
    model = model_from_config(cfg, build_model, beside, device)
    results = {}
    for name, title in set_titles(cfg.DATASETS.TEST).items():
        scored = evaluate_set(cfg, model, name, Path(cfg.OUTPUT_DIR) / "inference" / title)
        results[name] = scored.numbers if scored is not None else {}
    return _verify(cfg, results)


def _verify(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> int:
    sentences = unmet(cfg.TEST.EXPECTED_RESULTS, results)
    for sentence in sentences:
        logger.error(sentence)
    return 1 if sentences else 0


def _log_to(path: Path) -> logging.Handler:
    """Process 0 writes the log to a file too; of the others only warnings are shown."""
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(
            level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
    root.setLevel(logging.INFO if comm.is_main() else logging.WARNING)
    handler: logging.Handler = logging.NullHandler()
    if comm.is_main():
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    return handler
