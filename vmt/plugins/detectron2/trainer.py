"""detectron2's ``DefaultTrainer`` around the steps of our engine."""

from __future__ import annotations

import difflib
import time
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.optim import Optimizer

from vmt.checkpoint.training_state import random_state, restore_random_state, seed_everything
from vmt.data.build import TrainLoader, build_train_loader, steps_per_epoch
from vmt.data.catalog import load_dataset
from vmt.engine.adversarial import build_adversary
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.parallel import compile_layers, data_parallel, recompute_activations
from vmt.engine.switches import check_switches
from vmt.engine.train_loop import StepOptions, StepRecord
from vmt.engine.train_loop import Trainer as Engine
from vmt.modeling.registry import META_ARCHITECTURES
from vmt.plugins.detectron2.checkpointer import VideoCheckpointer
from vmt.plugins.detectron2.config import FULL_MODEL, vmt_config
from vmt.plugins.detectron2.datasets import dict_of_record, label_space_of, prepare
from vmt.plugins.detectron2.evaluator import VideoEvaluator
from vmt.plugins.detectron2.mapper import ClipDatasetMapper
from vmt.plugins.detectron2.network import VideoNetwork
from vmt.utils.errors import CheckpointError, ConfigError


class _TheirSchedule(Schedule):
    """Learning rate factors as detectron2's scheduler has set them."""

    def __init__(self, optimizer: Optimizer, max_steps: int) -> None:
        super().__init__(max_steps)
        object.__setattr__(self, "_optimizer", optimizer)

    def factor(self, step: int) -> float:
        """Of the step that is next; all groups have the same."""
        del step
        groups = getattr(self, "_optimizer").param_groups  # noqa: B009 - a frozen dataclass
        return next((float(g["lr"]) / g["base_lr"] for g in groups if g["base_lr"]), 1.0)


class _EngineSteps(SimpleTrainer):
    """Steps of our engine where detectron2 expects its ``SimpleTrainer``.

    Precision, accumulated gradients, clipping by the norm of all gradients, checks of losses and
    the adversary's own step are the engine's. Checkpoints hold what they need.

    Args:
        model: a ``VideoNetwork``, or DDP around it.
        data_loader: gives lists of clips.
        optimizer: with our groups.
        engine: makes the steps.
        network: the ``VideoNetwork``.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: Optimizer,
        engine: Engine,
        network: VideoNetwork,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.engine = engine
        self._network = network

    def run_step(self) -> None:
        """One step; losses, gradient norm and the adversary's numbers go to the event storage."""
        assert self.model.training, "the model was changed to eval mode"
        started = time.perf_counter()
        # A loader that starts processes draws a seed for them; the step must not depend on it.
        random_numbers = torch.get_rng_state()
        clips = next(self._data_loader_iter)
        torch.set_rng_state(random_numbers)
        seconds = time.perf_counter() - started
        batch = [self._network.sample(clip) for clip in clips]
        self.engine.step = self.iter
        self.engine.last = StepRecord(data_seconds=seconds, batch=batch)
        self.engine.run_step(batch)
        last = self.engine.last
        losses = {name: torch.tensor(value) for name, value in last.losses.items()}
        self._write_metrics(losses, seconds)
        storage = get_event_storage()
        storage.put_scalars(
            gradient_norm=last.gradient_norm, **last.adversary, smoothing_hint=False
        )

    def state_dict(self) -> dict[str, Any]:
        """Of this process: detectron2 asks the first one alone."""
        content: dict[str, Any] = super().state_dict()
        return content | {"vmt": self.engine.step_state(), "rng": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; processes but the first draw new random numbers.

        Raises:
            CheckpointError: the checkpoint has none of it, or belongs to another adversary.
        """
        if "vmt" not in state_dict:
            raise CheckpointError(
                "the checkpoint was made by another trainer than vmt.plugins.detectron2.Trainer; "
                "without --resume, MODEL.WEIGHTS starts a new training from it."
            )
        super().load_state_dict(state_dict)
        self.engine.load_step_state({"step": state_dict["iteration"], **state_dict["vmt"]})
        if comm.get_rank() == 0:
            restore_random_state(state_dict["rng"])
        else:
            seed_everything(self.engine.options.seed + comm.get_rank() + self.iter)


class Trainer(DefaultTrainer):
    """Trains and evaluates networks of ours by a detectron2 config.

    Hooks, writers, schedules of learning rates (``SOLVER.LR_SCHEDULER_NAME``), checkpoints and
    ``resume_or_load`` are detectron2's, and ``build_*`` may be overridden as usual. Ours are the
    groups of parameters, the step, the loaders (the same clips in the same order as ``vmt train``
    would draw) and the evaluator.

    Args:
        cfg: see ``vmt_config``; ``SOLVER.MAX_ITER`` 0: ``VMT.SOLVER.EPOCHS`` count.

    Raises:
        ConfigError: the config cannot be trained.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super(DefaultTrainer, self).__init__()
        cfg = with_steps(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
        config = vmt_config(cfg)
        seed_everything(config.ENGINE.SEED)  # the same start in every process
        network = self.build_model(cfg)
        assert isinstance(network, VideoNetwork), "built by META_ARCH_REGISTRY"
        check_switches(config, network.network, comm.get_world_size())
        adversary = build_adversary(config, network.device)
        seed_everything(config.ENGINE.SEED + comm.get_rank())
        if config.ENGINE.ACTIVATION_CHECKPOINTING:
            recompute_activations(network.network)
        if config.ENGINE.COMPILE:
            compile_layers(network.network)
        optimizer = self.build_optimizer(cfg, network)
        loader = self.build_train_loader(cfg)
        model: nn.Module = network
        if comm.get_world_size() > 1:
            model = data_parallel(network, network.device)
        engine = Engine(
            network.network,
            optimizer,
            _TheirSchedule(optimizer, cfg.SOLVER.MAX_ITER),
            lambda _: loader,
            network.device,
            model,
            options=StepOptions.from_config(config),
            adversary=adversary,
        )
        self._trainer = _EngineSteps(model, loader, optimizer, engine, network)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = VideoCheckpointer(
            model, cfg.OUTPUT_DIR, start=True, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the newest checkpoint of ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Raises:
            CheckpointError: weights or checkpoint do not fit.
            ConfigError: there are no weights where the config expects some.
        """
        super().resume_or_load(resume)
        if self.start_iter and isinstance(self.data_loader, TrainLoader):
            self._trainer.reset_data_loader(
                lambda: _train_loader(self.cfg, start_step=self.start_iter)
            )

    def train(self) -> Any:
        """Make the iterations that are left; results if ``TEST.EXPECTED_RESULTS`` asks for some."""
        if self.start_iter >= self.max_iter:
            raise ConfigError(
                f"the training is complete: {self.start_iter} iterations are done, SOLVER.MAX_ITER "
                f"is {self.max_iter}; raise it to go on, or take --eval-only."
            )
        return super().train()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """What ``MODEL.META_ARCHITECTURE`` names, on ``MODEL.DEVICE``.

        Raises:
            ConfigError: no such architecture, or none of ours.
        """
        check_architecture(cfg)
        model: nn.Module = super().build_model(cfg)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """AdamW with our groups; ``CLIP_GRADIENTS`` by parameter is detectron2's own wrapper."""
        assert isinstance(model, VideoNetwork), "built by build_model"
        optimizer: Optimizer = build_optimizer(model.vmt_cfg, model.network)
        if cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE != FULL_MODEL:
            optimizer = maybe_add_gradient_clipping(cfg, optimizer)
        return optimizer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Clips of ``DATASETS.TRAIN``, registered anywhere."""
        return _train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Videos of a data set, one per batch."""
        prepare([dataset_name])
        node = vmt_config(cfg).DATASETS
        data = load_dataset(dataset_name, node.ROOT, node.MASK_KEY)
        videos = [dict_of_record(data[k]) for k in range(len(data))]
        mapper = ClipDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(dataset=videos, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """``VideoEvaluator``."""
        return VideoEvaluator(dataset_name, cfg)


def _train_loader(cfg: CfgNode, start_step: int = 0) -> TrainLoader:
    config = vmt_config(cfg)
    prepare(config.DATASETS.TRAIN)
    return build_train_loader(
        config,
        label_space_of(cfg),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        start_step=start_step,
        pin_memory=str(cfg.MODEL.DEVICE).startswith("cuda"),
    )


def check_architecture(cfg: CfgNode) -> None:
    """Refuse an architecture that is none of ours.

    Raises:
        ConfigError: naming the nearest.
    """
    name, known = cfg.MODEL.META_ARCHITECTURE, sorted(key for key, _ in META_ARCHITECTURES)
    if name in META_ARCH_REGISTRY and META_ARCH_REGISTRY.get(name) is VideoNetwork:
        return
    if name in META_ARCH_REGISTRY and name not in known:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {name} is detectron2's or another project's, which its own "
            f"trainer trains; VMT's are {', '.join(known)}."
        )
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"MODEL.META_ARCHITECTURE {name!r} does not exist; {hint}VMT's are {', '.join(known)}."
    )


def with_steps(cfg: CfgNode) -> CfgNode:
    """A config whose schedule counts in iterations.

    ``SOLVER.MAX_ITER`` 0, as ``merge_recipe`` leaves it, stands for ``VMT.SOLVER.EPOCHS``, and
    ``STEPS`` for its ``MILESTONES``.

    Raises:
        ConfigError: a data set of ``DATASETS.TRAIN`` is not there.
    """
    if cfg.SOLVER.MAX_ITER > 0:
        return cfg
    config = vmt_config(cfg)
    prepare(config.DATASETS.TRAIN)
    schedule = Schedule.from_config(config, steps_per_epoch(config))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = schedule.max_steps, schedule.milestones
    cfg.freeze()
    return cfg
