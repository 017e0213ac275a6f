"""Learning rate factors as a function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.utils.errors import ConfigError

#: What a milestone multiplies the learning rates by, and where a warm-up starts.
GAMMA, WARMUP_FACTOR = 0.1, 0.001


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a drop at every milestone.

    Args:
        max_steps: length of the training.
        milestones: steps from which on the factor is multiplied by ``GAMMA``, ascending.
        warmup_steps: steps until the factor reaches 1.

    Raises:
        ConfigError: values that contradict each other.
    """

    max_steps: int
    milestones: tuple[int, ...] = ()
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ConfigError(
                f"the training would have {self.max_steps} steps; set SOLVER.EPOCHS or "
                "SOLVER.MAX_STEPS to at least 1."
            )
        if list(self.milestones) != sorted(self.milestones) or any(m < 0 for m in self.milestones):
            raise ConfigError(
                f"SOLVER.MILESTONES give the steps {list(self.milestones)}; they must ascend."
            )
        if self.warmup_steps < 0:
            raise ConfigError(f"SOLVER.WARMUP_STEPS is {self.warmup_steps}; give 0 or more.")

    def factor(self, step: int) -> float:
        """What the base learning rates are multiplied by in ``step``, counted from 0."""
        factor: float = GAMMA ** bisect_right(self.milestones, step)
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            factor *= WARMUP_FACTOR + (1.0 - WARMUP_FACTOR) * done
        return factor

    @classmethod
    def from_config(cls, cfg: CfgNode, steps_per_epoch: int | None) -> Schedule:
        """Read ``SOLVER``.

        Args:
            cfg: the config.
            steps_per_epoch: asked for only when ``SOLVER.MAX_STEPS`` is 0.
        """
        node = cfg.SOLVER
        if node.MAX_STEPS > 0:
            length, milestones = node.MAX_STEPS, tuple(node.MILESTONE_STEPS)
        else:
            assert steps_per_epoch is not None, "epochs need the length of the data"
            length = round(node.EPOCHS * steps_per_epoch)
            milestones = tuple(round(epoch * steps_per_epoch) for epoch in node.MILESTONES)
        return cls(length, milestones, node.WARMUP_STEPS)
