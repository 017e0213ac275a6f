"""Masks at points: costs and losses look at some thousand places of a mask in place of all cells.

Source: PointRend (arXiv:1912.08193, section 3.3) and Mask2Former (arXiv:2112.01527, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.utils.errors import ConfigError

#: (masks N, points P, device) -> (N, P, 2) as (x, y) in [0, 1]
Draw = Callable[[int, int, torch.device], Tensor]


def random_points(num_masks: int, num_points: int, device: torch.device) -> Tensor:
    """Uniform places: (N, P, 2) as (x, y) in [0, 1]."""
    return torch.rand(num_masks, num_points, 2, device=device)


def reference_points(num_masks: int, num_points: int, device: torch.device) -> Tensor:
    """Places that reference files of published code were made with: the same for all masks."""
    generator = np.random.Generator(np.random.PCG64(num_points))
    points = torch.from_numpy(generator.random((num_points, 2), dtype=np.float32))
    return points.to(device).expand(num_masks, -1, -1)


def at_points(maps: Tensor, points_xy: Tensor) -> Tensor:
    """Read maps between their cells, bilinearly; beyond the border they are 0.

    Args:
        maps: (N, C, h, w).
        points_xy: (N, P, 2) in [0, 1] of the maps.

    Returns:
        (N, C, P).
    """
    grid = (2 * points_xy - 1)[:, :, None].to(maps.dtype)  # (N, P, 1, 2)
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=False)[..., 0]


@dataclass(frozen=True)
class PointSampler:
    """Where costs and losses look.

    Args:
        num_points: P.
        oversample: places among which the loss chooses, per point.
        importance: share of the loss's points where the mask is most uncertain; the others are
            drawn anew.
        draw: gives random places.

    Raises:
        ConfigError: no point.
    """

    num_points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    draw: Draw = random_points

    def __post_init__(self) -> None:
        """Check."""
        if self.num_points < 1:
            raise ConfigError(f"MODEL.LOSS.MASK_POINTS is {self.num_points}; give at least 1.")

    def shared(self, device: torch.device) -> Tensor:
        """(1, P, 2): places for the costs of all pairs of a frame."""
        return self.draw(1, self.num_points, device)

    @torch.no_grad()
    def uncertain(self, mask_logits: Tensor) -> Tensor:
        """Places for the loss, most of them where the logit is near 0.

        Args:
            mask_logits: (N, h, w).

        Returns:
            (N, P, 2).
        """
        count, device = len(mask_logits), mask_logits.device
        candidates = self.draw(count, int(self.oversample * self.num_points), device)
        certainty = at_points(mask_logits[:, None].float(), candidates)[:, 0].abs()
        chosen = int(self.importance * self.num_points)
        best = certainty.topk(chosen, dim=1, largest=False).indices
        points = candidates.gather(1, best[..., None].expand(-1, -1, 2))
        if chosen == self.num_points:
            return points
        return torch.cat([points, self.draw(count, self.num_points - chosen, device)], dim=1)
