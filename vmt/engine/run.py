"""A training with everything around it: what a config says, hooks, files of its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.checkpoint.files import SAFETENSORS, write_weights
from vmt.checkpoint.training_state import CheckpointFolder, changed_keys, seed_everything
from vmt.config.summary import dump_changes
from vmt.data.build import build_train_loader, steps_per_epoch
from vmt.data.catalog import is_registered, locate
from vmt.data.labels import resolve_label_space
from vmt.engine.adversarial import build_adversary
from vmt.engine.ema import EmaHook
from vmt.engine.evaluate import evaluate_set, located_for_test, set_titles
from vmt.engine.hooks import CheckpointHook, EvalHook, LogHook, OverlayHook, SignalHook
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer, freeze
from vmt.engine.parallel import compile_layers, distribute, model_state, recompute_activations
from vmt.engine.start_weights import pretrained_backbone, start_training
from vmt.engine.switches import check_switches
from vmt.engine.train_loop import Hook, StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.modeling.video_model import Segmenter, VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils import comm
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.device import process_device
from vmt.utils.errors import ConfigError
from vmt.utils.events import JsonLines, ScalarWriter, TensorBoard, WeightsAndBiases

logger = logging.getLogger(__name__)

#: Files of an output folder.
CONFIG, LABELS, LOG, SCALARS = "config.yaml", "label_space.json", "log.txt", "metrics.jsonl"
#: Settings that a resumed training may change without a word.
_FREE = ("OUTPUT_DIR", "TEST.", "MODEL.DEVICE", "MODEL.WEIGHTS", "ENGINE.LOG", "ENGINE.CHECKPOINT")


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
        checkpoint = self._newest(resume)
        for name in cfg.DATASETS.TEST:
            located_for_test(cfg, name)  # not after days of training
        self._data: dict[str, str] = {}
        if comm.is_main():
            files = [name for name in cfg.DATASETS.TRAIN if not is_registered(name)]
            sets = [locate(name, cfg.DATASETS.ROOT) for name in files]
            self._data = {located.name: located.digest() for located in sets}
        self._text = self._write_descriptions()
        self._log = LogHook(cfg.ENGINE.LOG_PERIOD, self._open_writers)
        self._ema = EmaHook(cfg.ENGINE.EMA_DECAY) if cfg.ENGINE.EMA_DECAY else None
        self.trainer = self._build_trainer(initial_weights=checkpoint is None)
        if checkpoint is not None:
            path, state = checkpoint
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
        checkpoint = self._checkpoints.load_newest() if resume else None
        if resume and checkpoint is None:
            logger.info("%s: no checkpoint yet, starting from step 0", self.output)
        return checkpoint

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
            write_text(self.output / CONFIG, dump_changes(cfg))
            content = {"categories": categories_of(self.label_space)}
            write_text(self.output / LABELS, json.dumps(content, indent=1))
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
            StepOptions.from_config(cfg),
            adversary,
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
            scored = evaluate_set(
                self.cfg, model, name, folder / title, lambda: trainer.stop_asked != 0
            )
            if scored is None:
                return None
            self.results[name] = scored.numbers
            first = scored.numbers if first is None else first
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
