"""Steps of a network that is trained beside the model: its own optimiser, gradients and state."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.engine.optimizer import set_factor
from vmt.modeling.adversarial import AdversarialNetwork, AdversaryInput
from vmt.modeling.meta_arch.build import register_methods
from vmt.modeling.registry import ADVERSARIES, lookup
from vmt.utils import comm
from vmt.utils.errors import CheckpointError

logger = logging.getLogger(__name__)


class AdversaryTrainer:
    """What the training step tells an ``AdversarialNetwork``, and the model's ``Adversary``.

    Within a step: the model's forward pass ends in a call of this object. It makes the gradients of
    the adversary's own loss, averages them over the processes, makes the adversary's step, and only
    then asks what it thinks of the model. With ``SOLVER.ACCUMULATE`` gradients of all parts are
    added up and the step is made in the last part; the parts before it are judged by the
    adversary as it was before. It computes in fp32, whatever the precision of the model.

    Args:
        objective: on its device, the same in every process.
    """

    def __init__(self, objective: AdversarialNetwork) -> None:
        self.objective = objective.train()
        self.optimizer = objective.build_optimizer()
        for group in self.optimizer.param_groups:
            group["base_lr"] = group["lr"]
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._share: float | Tensor = 1.0
        self._last = True
        self._loss: Tensor | float = 0.0
        self._norm = 0.0

    def begin_step(self, step: int, factor: float) -> None:
        """Before step ``step``, whose learning rates are multiplied by ``factor``."""
        set_factor(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.begin_step(step)
        self._loss = 0.0

    def begin_part(self, share: float | Tensor, last: bool) -> None:
        """Before a part of the step, whose losses count ``share``."""
        self._share, self._last = share, last

    def __call__(self, inputs: AdversaryInput) -> dict[str, Tensor]:
        """Train the network on a part of the step; weighted losses for the model."""
        with torch.autocast(inputs.memory.device.type, enabled=False):
            loss = self.objective.own_loss(inputs) * self._share
            loss.backward()
            self._loss = self._loss + loss.detach()
            if self._last:
                self._step()
            return self.objective.losses(inputs)

    def _step(self) -> None:
        assert isinstance(self._loss, Tensor), "a part came before"
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if comm.world_size() > 1:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= comm.world_size()
            for gradient, part in zip(
                gradients, flat.split([g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))
        limit = self.objective.clip_gradients or float("inf")
        self._norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        loss = float(comm.mean(self._loss.double().reshape(1)))
        if self.objective.end_step(loss):
            self.optimizer.step()

    def numbers(self) -> dict[str, float]:
        """What to log about the last step."""
        return {
            "adversary/loss": float(self._loss),
            "adversary/gradient_norm": self._norm,
            **{f"adversary/{name}": value for name, value in self.objective.numbers().items()},
        }

    def state(self) -> dict[str, Any]:
        """Parameters, optimiser and whatever else the objective keeps, on the CPU."""
        return {
            "objective": {n: v.detach().cpu().clone() for n, v in self._named().items()},
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "extra": self.objective.extra(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave.

        Raises:
            CheckpointError: it was made by another adversary.
        """
        own = self._named()
        theirs = state["objective"]
        if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in theirs.items()}:
            raise CheckpointError(
                "the checkpoint's adversary is another one than MODEL.ADVERSARY builds; "
                "resume with the config it was made by."
            )
        self.objective.load_state_dict(theirs)
        content = self.optimizer.state_dict()
        content["state"] = state["optimizer"]["state"]
        self.optimizer.load_state_dict(content)
        self.objective.load_extra(state["extra"])

    def _named(self) -> dict[str, Tensor]:
        return dict(self.objective.state_dict())


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value


def build_adversary(cfg: CfgNode, device: torch.device) -> AdversaryTrainer | None:
    """What ``MODEL.ADVERSARY`` names, on a device; None for "none".

    Raises:
        ConfigError: an unknown name.
    """
    name = cfg.MODEL.ADVERSARY
    if name == "none":
        return None
    register_methods()
    entry = lookup(ADVERSARIES, name, "MODEL.ADVERSARY (or none)")
    objective: AdversarialNetwork = entry.from_config(cfg)
    return AdversaryTrainer(objective.to(device))
