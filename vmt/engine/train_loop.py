"""The training step and the loop around it; everything else in time is a hook."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from vmt.checkpoint.training_state import random_state, restore_random_state, seed_everything
from vmt.engine.adversarial import AdversaryTrainer
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import set_factor
from vmt.engine.parallel import (
    fill_missing_gradients,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from vmt.modeling.criteria.finite import NonFiniteError, check_finite, read_numbers
from vmt.modeling.video_model import ClipBatch, VideoModel
from vmt.utils import comm
from vmt.utils.errors import CheckpointError, ConfigError, VmtError
from vmt.utils.precision import arithmetic, checked_precision, fp32_products

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]
#: step to start at -> this process's share of that step and of all that follow
LoaderFactory = Callable[[int], Iterable[Batch]]

#: What it is called among the numbers of a step.
GRADIENT_NORM = "the norm of the gradients"
#: Seconds by which a signal to all processes may reach this one after those that load data.
_SIGNAL_DELAY = 0.5


class Hook:
    """Something that happens beside the training step; every method may be left out.

    Attributes:
        name: of its state in checkpoints.
    """

    name = ""

    def before_train(self, trainer: Trainer) -> None:
        """Called once, after a checkpoint was loaded."""

    def before_step(self, trainer: Trainer) -> None:
        """Called when ``trainer.step`` steps are done."""

    def after_step(self, trainer: Trainer) -> None:
        """Called when ``trainer.step`` steps are done, the one just made included."""

    def after_train(self, trainer: Trainer) -> None:
        """Called at the end and after a stop, but not after an error."""

    def close(self) -> None:
        """Called last, whatever happened."""

    def state(self) -> dict[str, Any]:
        """What to keep in a checkpoint; every process is asked."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""


@dataclass
class StepRecord:
    """What the last step was like.

    Args:
        losses: weighted losses of this process by name.
        gradient_norm: before clipping; not finite when fp16 skipped the step.
        data_seconds: spent waiting for data.
        seconds: of the whole step.
        batch: this process's clips.
        adversary: numbers of what is trained beside the network.
    """

    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    data_seconds: float = 0.0
    seconds: float = 0.0
    batch: Batch = field(default_factory=list)
    adversary: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepOptions:
    """How a step is made.

    Args:
        accumulate: parts of a step; ``SOLVER.ACCUMULATE``.
        clip_gradients: largest gradient norm, 0 for none.
        precision: "fp32", "bf16" or "fp16".
        seed: for random numbers after a resume with another number of processes.

    Raises:
        ConfigError: an unknown precision, or a number of parts below 1.
    """

    accumulate: int = 1
    clip_gradients: float = 0.0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ConfigError(f"SOLVER.ACCUMULATE must be at least 1, not {self.accumulate}.")
        checked_precision(self.precision, "ENGINE.PRECISION")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> StepOptions:
        """Read ``SOLVER`` and ``ENGINE``."""
        solver, engine = cfg.SOLVER, cfg.ENGINE
        return cls(solver.ACCUMULATE, solver.CLIP_GRADIENTS, engine.PRECISION, engine.SEED)


class Trainer:
    """Steps of a network over a stream of clips.

    Args:
        model: on its device; gives weighted losses in training mode.
        optimizer: with ``vmt.engine.optimizer``'s groups.
        schedule: learning rate factors and length.
        open_loader: gives the clips from a step on.
        device: of this process.
        module: what to call instead of ``model``, for instance its DDP wrapper.
        hooks: called in this order.
        options: see ``StepOptions``.
        adversary: what is trained beside the network, with an optimiser of its own; or None.

    Attributes:
        step: steps done so far.
        last: the step before.
        stop_asked: number of the signal that this process heard; 0 for none.
        stop_signal: number of the signal that ended the training early, the same in all
            processes; 0 for none.
    """

    def __init__(
        self,
        model: VideoModel,
        optimizer: Optimizer,
        schedule: Schedule,
        open_loader: LoaderFactory,
        device: torch.device,
        module: nn.Module | None = None,
        hooks: Sequence[Hook] = (),
        options: StepOptions = StepOptions(),
        adversary: AdversaryTrainer | None = None,
    ) -> None:
        self.model = model
        self.module = module if module is not None else model
        self.optimizer = optimizer
        self.schedule = schedule
        self.device = device
        self.hooks = list(hooks)
        self.options = options
        self.adversary = adversary
        self.step = 0
        self.last = StepRecord()
        # Two attributes: a signal that arrives while the processes agree must not be overwritten
        # by an agreement from before it.
        self.stop_asked = 0
        self.stop_signal = 0
        self._open_loader = open_loader
        self._loader: Iterable[Batch] = ()
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def max_steps(self) -> int:
        """Length of the training."""
        return self.schedule.max_steps

    # --- loop -----------------------------------------------------------------------------------

    def train(self) -> bool:
        """Make the steps that are left.

        Returns:
            True when the training is complete, False when ``request_stop`` was called.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite.
            VmtError: the data cannot be loaded.
        """
        self.model.train()
        try:
            for hook in self.hooks:
                hook.before_train(self)
            self._make_steps()
            for hook in self.hooks:
                hook.after_train(self)
            self.stop_signal = comm.any_process(self.stop_asked)
        finally:
            for hook in self.hooks:
                hook.close()
        return self.stop_signal == 0

    def _make_steps(self) -> None:
        if self.step >= self.max_steps:
            return
        self._loader = self._open_loader(self.step)
        batches = iter(self._loader)
        while self.step < self.max_steps:
            for hook in self.hooks:
                hook.before_step(self)
            batch, failure = self._next(batches)
            # All processes stop before the same step, also when the signal killed the loading
            # processes of one of them.
            self.stop_signal = comm.any_process(self.stop_asked)
            if self.stop_signal:
                return
            if failure is not None:
                raise failure
            self.run_step(batch)
            self.step += 1
            for hook in self.hooks:
                hook.after_step(self)

    def request_stop(self, signal_number: int) -> None:
        """End before the next step, in all processes; safe inside a signal handler."""
        self.stop_asked = signal_number

    @property
    def skipped_files(self) -> int:
        """Damaged files that the loader left out so far, in this process."""
        return sum(getattr(self._loader, "skipped", {}).values())

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch, VmtError | None]:
        """This process's clips of the next step, or why there are none."""
        started = time.perf_counter()
        batch: Batch = []
        failure: VmtError | None = None
        # A loader that starts processes draws a seed for them; what follows must not depend on it.
        random_numbers = torch.get_rng_state()
        try:
            batch = next(batches)
        except VmtError as error:
            failure = error
            time.sleep(_SIGNAL_DELAY)
        torch.set_rng_state(random_numbers)
        self.last = StepRecord(data_seconds=time.perf_counter() - started, batch=batch)
        return batch, failure

    # --- one step -------------------------------------------------------------------------------

    def run_step(self, batch: Batch) -> None:
        """Make step ``step`` with this process's clips; ``last`` says what it was like."""
        started = time.perf_counter()
        names = [clip["targets"].name for clip in batch]
        factor = self.schedule.factor(self.step)
        set_factor(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        if self.adversary is not None:
            self.adversary.begin_step(self.step, factor)
        with fp32_products(self.options.precision):  # of the backward pass too
            losses = self._gradients(batch)
        if comm.world_size() == 1:
            fill_missing_gradients(self._parameters)
        self._scaler.unscale_(self.optimizer)
        norm = self._clip()
        # the only wait behind the backward pass
        *numbers, norm_read = read_numbers({**losses, GRADIENT_NORM: norm}).values()
        self.last.losses = dict(zip(losses, numbers, strict=True))
        self.last.gradient_norm = norm_read
        check_finite(self.last.losses, names, self.step)
        if not self._scaler.is_enabled():
            check_finite({GRADIENT_NORM: norm_read}, names, self.step)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.adversary is not None:
            self.last.adversary = self.adversary.numbers()
        self.last.seconds = time.perf_counter() - started + self.last.data_seconds

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Add up the gradients of the step, part by part; returns its losses."""
        parts = split_batch(batch, self.options.accumulate)
        # The losses of a part are divided by its own count; what the step asks for is the division
        # by the count of all.
        shares: list[float | Tensor] = [1.0]
        if len(parts) > 1:
            clips = [ClipBatch.from_inputs(some) for some in (batch, *parts)]
            total, *counts = map(self.model.loss_count, clips)
            shares = [count / total for count in counts]
        sums: dict[str, Tensor] = {}
        for index, (part, share) in enumerate(zip(parts, shares, strict=True)):
            last = index == len(parts) - 1
            adversary = () if self.adversary is None else (self.adversary,)
            if self.adversary is not None:
                self.adversary.begin_part(share, last)
            with self._synchronised(last):
                with arithmetic(self.options.precision, self.device):
                    losses = self.module(part, *adversary)
                losses = {name: loss.float() * share for name, loss in losses.items()}
                self._scaler.scale(torch.stack(list(losses.values())).sum()).backward()
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
        return sums

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Exchange gradients with the other processes behind the last part only."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            with self.module.no_sync():
                yield
        else:
            yield

    def _clip(self) -> Tensor:
        limit = self.options.clip_gradients or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs; every process must ask."""
        return {
            "step": self.step,
            "model": model_state(self.model),
            "optimizer": optimizer_state(self.optimizer),
            "rng": comm.gather(random_state()),
            "hooks": {hook.name: hook.state() for hook in self.hooks if hook.name},
            **self.step_state(),
        }

    def step_state(self) -> dict[str, Any]:
        """What steps keep beside model and optimiser: fp16's scale of losses, the adversary."""
        adversary = {} if self.adversary is None else {"adversary": self.adversary.state()}
        return {"scaler": self._scaler.state_dict(), **adversary}

    def load_step_state(self, state: dict[str, Any]) -> None:
        """Take back what ``step_state`` gave.

        Args:
            state: with ``step``, for messages.

        Raises:
            CheckpointError: it was made with another adversary.
        """
        self._check_adversary(state)
        if self.adversary is not None:
            self.adversary.load_state(state["adversary"])
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _check_adversary(self, state: dict[str, Any]) -> None:
        if ("adversary" in state) != (self.adversary is not None):
            raise CheckpointError(
                f"the checkpoint of step {state['step']} was made "
                f"{'with' if 'adversary' in state else 'without'} an adversary; resume "
                "with the MODEL.ADVERSARY it was made by."
            )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            CheckpointError: the checkpoint belongs to another network.
        """
        own, theirs = self.model.state_dict(), state["model"]
        wrong = [n for n in own if n not in theirs or theirs[n].shape != own[n].shape]
        wrong += [n for n in theirs if n not in own]
        if wrong:
            raise CheckpointError(
                f"the checkpoint of step {state['step']} belongs to another network: {wrong[0]} "
                f"and {len(wrong) - 1} more entries differ; resume with the config it was made by."
            )
        self._check_adversary(state)
        load_model_state(self.model, theirs)
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.load_step_state(state)
        for hook in self.hooks:
            if hook.name in state["hooks"]:
                hook.load_state(state["hooks"][hook.name])
        self.step = int(state["step"])
        if len(state["rng"]) == comm.world_size():
            restore_random_state(state["rng"][comm.rank()])
        else:
            logger.warning(
                "the checkpoint was made by %d processes, now there are %d: dropout draws other "
                "random numbers than an unbroken training would.",
                len(state["rng"]),
                comm.world_size(),
            )
            seed_everything(self.options.seed + comm.rank() + self.step)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Cut a share of a step into at most ``parts`` parts of about equal size, in order.

    Raises:
        ConfigError: there are fewer clips than parts.
    """
    if len(batch) < parts:
        raise ConfigError(
            f"SOLVER.ACCUMULATE {parts} cuts a process's {len(batch)} clips of a step into more "
            "parts than clips; lower it or raise SOLVER.CLIPS_PER_BATCH."
        )
    ends = [len(batch) * (i + 1) // parts for i in range(parts)]
    return [batch[start:end] for start, end in zip([0, *ends], ends, strict=False)]


__all__ = ["Batch", "Hook", "NonFiniteError", "StepOptions", "StepRecord", "Trainer", "split_batch"]
