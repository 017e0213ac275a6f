"""Moving average of the weights, kept beside them on the same device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vmt.engine.parallel import like_parameter, whole
from vmt.engine.train_loop import Hook, Trainer
from vmt.utils.errors import ConfigError


class EmaHook(Hook):
    """average = decay * average + (1 - decay) * weights, behind every step.

    The decay grows from 0.1 towards ``decay`` in the first steps, so that the random start is
    forgotten (timm and TensorFlow do the same).

    Args:
        decay: in (0, 1).
    """

    name = "ema"

    def __init__(self, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ConfigError(f"ENGINE.EMA_DECAY {decay} must lie between 0 and 1; 0 turns it off.")
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}

    def before_train(self, trainer: Trainer) -> None:
        """Start from the weights, or from the checkpoint."""
        own = trainer.model.state_dict()
        start = {name: like_parameter(self._loaded.get(name, v), v) for name, v in own.items()}
        self._average = {n: v.detach().to(own[n].device, copy=True) for n, v in start.items()}

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Move the average."""
        decay = min(self.decay, (1 + trainer.step) / (10 + trainer.step))
        moved: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in trainer.model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                moved[0].append(average)
                moved[1].append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(*moved, 1.0 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The average as whole tensors on the CPU; collective when it is sharded."""
        return {name: whole(value) for name, value in self._average.items()}

    def state(self) -> dict[str, Any]:
        """The average."""
        return self.weights()

    def load_state(self, state: dict[str, Any]) -> None:
        """Keep an average until the training begins."""
        self._loaded = state
