"""A config becomes a training or an evaluation: the one place where the parts meet."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.checkpoint.files import SAFETENSORS, write_weights
from vmt.checkpoint.training_state import CheckpointFolder, changed_keys, seed_everything
from vmt.config.node import load_config
from vmt.config.summary import dump_changes
from vmt.data.build import build_train_loader, steps_per_epoch
from vmt.data.catalog import locate
from vmt.data.labels import resolve_label_space
from vmt.engine.adversarial import build_adversary
from vmt.engine.ema import EmaHook
from vmt.engine.evaluate import evaluate_set
from vmt.engine.hooks import CheckpointHook, EvalHook, LogHook, OverlayHook, SignalHook
from vmt.engine.launch import LaunchOptions, Processes, launch, started_by_torchrun
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer, freeze
from vmt.engine.parallel import compile_layers, distribute, model_state, recompute_activations
from vmt.engine.start_weights import pretrained_backbone, start_training
from vmt.engine.switches import check_switches
from vmt.engine.train_loop import Hook, Trainer
from vmt.evaluation.expected import unmet
from vmt.inference.load import model_from_config
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.modeling.video_model import Segmenter, VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils import comm
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.device import process_device
from vmt.utils.errors import ConfigError
from vmt.utils.events import JsonLines, ScalarWriter, TensorBoard, WeightsAndBiases

logger = logging.getLogger(__name__)

#: Files of an output folder.
CONFIG, LABELS, LOG, SCALARS = "config.yaml", "label_space.json", "log.txt", "metrics.jsonl"
#: Settings that a resumed training may change without a word.
_FREE = ("OUTPUT_DIR", "TEST.", "MODEL.DEVICE", "MODEL.WEIGHTS", "ENGINE.LOG", "ENGINE.CHECKPOINT")


@dataclass(frozen=True)
class Job:
    """What every process of a run is told.

    Args:
        config_file: YAML.
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
        return Path(self.config_file).parent if self.config_file else None


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
        found = evaluate_set(cfg, model, name, Path(cfg.OUTPUT_DIR) / "inference" / title)
        results[name] = found.numbers if found is not None else {}
    return _verify(cfg, results)


def _verify(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> int:
    sentences = unmet(cfg.TEST.EXPECTED_RESULTS, results)
    for sentence in sentences:
        logger.error(sentence)
    return 1 if sentences else 0


def set_titles(names: Sequence[str]) -> dict[str, str]:
    """Folder name of every data set: its own name, or the stem of its file; never twice."""
    titles: dict[str, str] = {}
    for name in names:
        title = unique = Path(name.rpartition("@")[0]).stem if "@" in name else name
        count = 1
        while unique in titles.values():
            count += 1
            unique = f"{title}_{count}"
        titles[name] = unique
    return titles


class TrainingRun:
    """A trainer with everything around it, and the files of its output folder.

    Args:
        cfg: the config.
        beside: folder of the config file, see ``resolve_label_space``.
        resume: go on from the newest checkpoint of ``OUTPUT_DIR``, if there is one.

    Raises:
        ConfigError: the config cannot be trained, or the folder holds another run.
        CheckpointError: initial weights or checkpoint do not fit.
    """

    def __init__(self, cfg: CfgNode, beside: Path | None = None, resume: bool = False) -> None:
        self.cfg = cfg
        self.output = make_folder(Path(cfg.OUTPUT_DIR))
        self.label_space = resolve_label_space(cfg.MODEL.LABEL_SPACE, beside)
        self.results: dict[str, dict[str, float]] = {}
        self._checkpoints = CheckpointFolder(
            self.output / "checkpoints", cfg.ENGINE.KEEP_CHECKPOINTS
        )
        found = self._newest(resume)
        self._data: dict[str, str] = {}
        if comm.is_main():
            sets = [locate(name, cfg.DATASETS.ROOT) for name in cfg.DATASETS.TRAIN]
            self._data = {located.name: located.digest() for located in sets}
        self._text = self._write_descriptions()
        self._log = LogHook(cfg.ENGINE.LOG_PERIOD, self._open_writers)
        self._ema = EmaHook(cfg.ENGINE.EMA_DECAY) if cfg.ENGINE.EMA_DECAY else None
        self.trainer = self._build_trainer(initial_weights=found is None)
        if found is not None:
            path, state = found
            self._compare(path, state)
            self.trainer.load_state(state)
            logger.info("resumed from %s at step %d", path, self.trainer.step)

    def _newest(self, resume: bool) -> tuple[Path, dict[str, Any]] | None:
        if not resume and self._checkpoints.paths():
            raise ConfigError(
                f"{self._checkpoints.folder}: holds checkpoints of an earlier training; --resume "
                "goes on with it, another OUTPUT_DIR starts a new one."
            )
        comm.barrier()  # all have looked before one writes
        found = self._checkpoints.load_newest() if resume else None
        if resume and found is None:
            logger.info("%s: no checkpoint yet, starting from step 0", self.output)
        return found

    def _compare(self, path: Path, state: Mapping[str, Any]) -> None:
        old, new = yaml.safe_load(state["config"]), yaml.safe_load(self._text)
        for change in changed_keys(old, new, _FREE):
            logger.warning("%s was made with another setting: %s", path, change)
        for name, digest in state.get("data", {}).items():
            if self._data.get(name, digest) != digest:
                logger.warning("%s was made with other annotations in %s", path, name)

    def _write_descriptions(self) -> str:
        """config.yaml, what differs from the defaults, and label_space.json; returns every key."""
        cfg = self.cfg.clone()
        cfg.defrost()
        if cfg.MODEL.LABEL_SPACE.endswith(".json"):
            cfg.MODEL.LABEL_SPACE = LABELS
        if comm.is_main():
            with AtomicFile(self.output / CONFIG) as file:
                file.write(dump_changes(cfg).encode())
            with AtomicFile(self.output / LABELS) as file:
                content = {"categories": categories_of(self.label_space)}
                file.write(json.dumps(content, indent=1).encode())
        return str(cfg.dump())

    def _build_trainer(self, initial_weights: bool) -> Trainer:
        cfg = self.cfg
        device = process_device(cfg.MODEL.DEVICE, comm.world_size())
        # The same start in every process; only then each draws random numbers of its own.
        seed_everything(cfg.ENGINE.SEED)
        model = self._build_model(pretrained=initial_weights)
        check_switches(cfg, model, comm.world_size())
        freeze(model, cfg.SOLVER.FREEZE)
        if initial_weights:
            start_training(cfg, model)
        adversary = build_adversary(cfg, device)
        seed_everything(cfg.ENGINE.SEED + comm.rank())
        model.to(device).train()
        if cfg.ENGINE.ACTIVATION_CHECKPOINTING:
            recompute_activations(model)
        if cfg.ENGINE.COMPILE:
            compile_layers(model)
        module = distribute(model, cfg.ENGINE.PARALLEL, device)
        epoch = None if cfg.SOLVER.MAX_STEPS > 0 else steps_per_epoch(cfg)
        return Trainer(
            model,
            build_optimizer(cfg, model),
            Schedule.from_config(cfg, epoch),
            self._open_loader,
            device,
            module,
            self._hooks(),
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
            precision=cfg.ENGINE.PRECISION,
            seed=cfg.ENGINE.SEED,
            adversary=adversary,
        )

    def _build_model(self, pretrained: bool) -> VideoModel:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAINED = pretrained and pretrained_backbone(cfg)
        # What is evaluated on the way must be able to find objects.
        build = build_model if cfg.DATASETS.TEST else build_network
        return build(cfg, self.label_space)

    def _open_loader(self, start_step: int) -> Any:
        return build_train_loader(
            self.cfg,
            self.label_space,
            rank=comm.rank(),
            world_size=comm.world_size(),
            start_step=start_step,
            pin_memory=self.trainer.device.type == "cuda",
        )

    # --- hooks ----------------------------------------------------------------------------------

    def _hooks(self) -> list[Hook]:
        engine = self.cfg.ENGINE
        hooks: list[Hook] = [SignalHook()]
        if self._ema is not None:
            hooks.append(self._ema)
        hooks.append(self._log)
        if engine.OVERLAY_PERIOD:
            folder, names = self.output / "overlays", self.label_space.names
            confidence = self.cfg.TEST.CONFIDENCE
            hooks.append(OverlayHook(engine.OVERLAY_PERIOD, folder, confidence, names))
        extra = {
            "config": self._text,
            "categories": categories_of(self.label_space),
            "data": self._data,
        }
        hooks.append(CheckpointHook(self._checkpoints, engine.CHECKPOINT_PERIOD, extra))
        if self.cfg.DATASETS.TEST:
            evaluation = EvalHook(
                self.cfg.TEST.EVAL_PERIOD,
                self._evaluate,
                self.cfg.TEST.BEST_METRIC,
                self._keep_best,
                self._log.write,
            )
            hooks.append(evaluation)
        hooks.append(_FinalWeights(self))
        return hooks

    def _open_writers(self, first_step: int) -> Sequence[ScalarWriter]:
        # A line of step s stands for the state after s steps, which the checkpoint of s has.
        writers: list[ScalarWriter] = [JsonLines(self.output / SCALARS, first_step + 1)]
        if self.cfg.ENGINE.TENSORBOARD:
            writers.append(TensorBoard(self.output / "tensorboard", first_step + 1))
        if self.cfg.ENGINE.WANDB_PROJECT:
            settings = yaml.safe_load(self._text)
            writers.append(WeightsAndBiases(self.cfg.ENGINE.WANDB_PROJECT, self.output, settings))
        return writers

    def weights(self, trainer: Trainer) -> dict[str, Tensor]:
        """What the training has made so far: the moving average if there is one; collective."""
        return self._ema.weights() if self._ema is not None else model_state(trainer.model)

    def write_weights(self, trainer: Trainer, name: str) -> Path:
        """Write ``weights`` as ``NAME.safetensors``; collective."""
        path = self.output / f"{name}{SAFETENSORS}"
        state = self.weights(trainer)
        if comm.is_main():
            metadata = {
                "step": str(trainer.step),
                "categories": json.dumps(categories_of(self.label_space)),
            }
            write_weights(state, path, metadata)
        return path

    def _keep_best(self, trainer: Trainer, value: float) -> None:
        path = self.write_weights(trainer, "model_best")
        logger.info("%s: best so far, %s %.4f", path, self.cfg.TEST.BEST_METRIC, value)

    def _evaluate(self, trainer: Trainer) -> dict[str, float] | None:
        model = self._evaluation_model(trainer)
        folder = self.output / "inference" / f"step_{trainer.step:08d}"
        first: dict[str, float] | None = None
        for name, title in set_titles(self.cfg.DATASETS.TEST).items():
            found = evaluate_set(
                self.cfg, model, name, folder / title, lambda: trainer.stop_asked != 0
            )
            if found is None:
                return None
            self.results[name] = found.numbers
            first = found.numbers if first is None else first
        return first

    def _evaluation_model(self, trainer: Trainer) -> Segmenter:
        sharded = self.cfg.ENGINE.PARALLEL == "fsdp" and comm.world_size() > 1
        if self._ema is None and not sharded:
            assert isinstance(trainer.model, Segmenter), "built by build_model"
            return trainer.model
        weights = self.weights(trainer)
        devices = [trainer.device] if trainer.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # an evaluation must not change the training
            model = self._build_model(pretrained=False)
        assert isinstance(model, Segmenter), "built by build_model"
        model.load_state_dict(weights)
        return model.to(trainer.device).eval()


class _FinalWeights(Hook):
    """Writes the weights of a complete training."""

    def __init__(self, run: TrainingRun) -> None:
        self._run = run

    def after_train(self, trainer: Trainer) -> None:
        """Write ``model_final.safetensors``."""
        if trainer.step < trainer.max_steps:
            return
        path = self._run.write_weights(trainer, "model_final")
        if comm.is_main():
            logger.info("%s: the trained network", path)


def categories_of(space: LabelSpace) -> list[dict[str, Any]]:
    """Classes as the ``categories`` of a JSON file."""
    pairs = zip(space.category_ids, space.names, strict=True)
    return [{"id": key, "name": name} for key, name in pairs]


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
