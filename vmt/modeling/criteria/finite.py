"""Stops a training run whose numbers are no longer numbers, and says where it happened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vmt.utils.errors import VmtError


class NonFiniteError(VmtError, ArithmeticError):
    """A cost or loss is NaN or infinite."""


def read_numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars by name -> numbers; waits for the device once."""
    if not losses:
        return {}
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    return dict(zip(losses, values.tolist(), strict=True))


def check_finite(numbers: Mapping[str, float], clips: Sequence[str], step: int) -> None:
    """Raise when a loss is NaN or infinite.

    Args:
        numbers: losses by name.
        clips: names of the clips of the batch (``ClipTargets.name``).
        step: of the training, counted from 0.

    Raises:
        NonFiniteError: names every such loss with its value, the step and the clips.
    """
    bad = [f"{name} = {number}" for name, number in numbers.items() if not math.isfinite(number)]
    if not bad:
        return
    raise NonFiniteError(
        f"{', '.join(bad)} at step {step}; clips of the batch: {'; '.join(clips) or 'none'}. "
        "Look at these clips, lower the learning rate, or use bf16 or fp32 in place of fp16."
    )
