"""Networks that are trained beside the model, on what it makes of a clip, and judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer

from vmt.structures.clip import ClipTargets


@dataclass(frozen=True)
class AdversaryInput:
    """What a training step made of B clips of T frames, tied to the graph.

    Args:
        frames: (B*T, 3, H, W), normalised and padded on the right and below.
        memory: (B*T, S, C), output of the encoder.
        shapes: (H_l, W_l) per level of the memory.
        padding_mask: (B*T, S) bool, True on padding; None when nothing is padded.
        mask_logits: per clip (N, T, h4, w4), stride 4, of the queries that the last decoder layer
            matched.
        targets: one per clip.
        target_index: per clip (N,) int64, the tracklet of each row of ``mask_logits``.
        num_tracklets: see ``CriterionResult``.
    """

    frames: Tensor
    memory: Tensor
    shapes: tuple[tuple[int, int], ...]
    padding_mask: Tensor | None
    mask_logits: Sequence[Tensor]
    targets: Sequence[ClipTargets]
    target_index: Sequence[Tensor]
    num_tracklets: float | Tensor


class Adversary(Protocol):
    """What a model calls in a training step when something is trained beside it."""

    def __call__(self, inputs: AdversaryInput) -> dict[str, Tensor]:
        """Weighted losses for the model, by name."""
        ...


class AdversarialNetwork(nn.Module):
    """Base of everything in the registry ADVERSARIES.

    Its parameters belong to no model: they have an optimiser of their own, and only training knows
    them. The engine calls ``own_loss``, makes the step of that optimiser, then calls ``losses``.

    Attributes:
        clip_gradients: largest norm of its own gradients, 0 for none.
    """

    clip_gradients = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> AdversarialNetwork:
        """Build from the config."""
        raise NotImplementedError

    def build_optimizer(self) -> Optimizer:
        """An optimiser of its parameters; the engine multiplies its rates by the schedule."""
        raise NotImplementedError

    def begin_step(self, step: int) -> None:
        """Called before step ``step``, counted from 0."""

    def own_loss(self, inputs: AdversaryInput) -> Tensor:
        """What its own optimiser minimises: a scalar through which no gradient reaches the model.

        Divided by ``inputs.num_tracklets`` as the model's losses are, so that parts of a step
        and shares of processes add up.
        """
        raise NotImplementedError

    def end_step(self, own_loss: float) -> bool:
        """Decide about a step.

        Args:
            own_loss: of the whole step, mean over processes.

        Returns:
            Whether its optimiser makes its step; the same in every process.
        """
        return True

    def losses(self, inputs: AdversaryInput) -> dict[str, Tensor]:
        """Weighted losses for the model; no gradient may reach the own parameters."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """What to log about the last step, asked for behind the backward pass."""
        return {}

    def extra(self) -> dict[str, Any]:
        """What to keep in a checkpoint beside parameters and optimiser."""
        return {}

    def load_extra(self, extra: dict[str, Any]) -> None:
        """Take back what ``extra`` gave."""
