"""Stops a training run whose numbers are no longer numbers, and says where it happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vmt.utils.errors import VmtError


class NonFiniteError(VmtError, ArithmeticError):
    """A cost or loss is NaN or infinite."""


def check_finite_losses(
    losses: Mapping[str, Tensor], clips: Sequence[str], step: int | None = None
) -> None:
    """Raise when a loss is NaN or infinite. Waits for the device once.

    Args:
        losses: scalars by name.
        clips: names of the clips of the batch (``ClipTargets.name``).
        step: training step, counted from 0; None when unknown.

    Raises:
        NonFiniteError: names every such loss with its value, the step and the clips.
    """
    if not losses:
        return
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if bool(torch.isfinite(values).all()):
        return
    numbers = values.tolist()
    bad = [
        f"{name} = {number}"
        for name, number, finite in zip(
            losses, numbers, torch.isfinite(values).tolist(), strict=True
        )
        if not finite
    ]
    where = "" if step is None else f" at step {step}"
    raise NonFiniteError(
        f"{', '.join(bad)}{where}; clips of the batch: {'; '.join(clips) or 'none'}. "
        "Look at these clips, lower the learning rate, or use bf16 or fp32 in place of fp16."
    )
