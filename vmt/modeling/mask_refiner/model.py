"""What the networks for given masks have in common: losses of a refiner, cells it worked on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vmt.modeling.criteria.matcher import Match
from vmt.modeling.refiners.base import RefinerLosses, RefinerOutput
from vmt.structures.clip import ClipTargets


def refinement_losses(
    criterion: RefinerLosses,
    outputs: Sequence[RefinerOutput],
    targets: Sequence[ClipTargets],
    num_tracklets: float | Tensor,
) -> dict[str, Tensor]:
    """Weighted losses by name, where the n-th refined tracklet of a clip has the n-th target.

    Args:
        criterion: of the refiner.
        outputs: one per clip.
        targets: one per clip.
        num_tracklets: what sums are divided by.
    """
    rows = [torch.arange(len(target), device=target.labels.device) for target in targets]
    matches = [Match(index, index) for index in rows]
    losses = criterion.measure(outputs, targets, matches, num_tracklets)
    return {name: criterion.weight(name) * loss for name, loss in losses.items()}


def zero_loss(model: nn.Module) -> Tensor:
    """0, on which every trained parameter hangs: for clips in which there is nothing to refine."""
    return torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum() * 0.0
