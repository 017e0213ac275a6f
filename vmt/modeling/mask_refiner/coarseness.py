"""How far off given masks are: measured where the truth is known, estimated where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Mean length of a contour, in pixels, per pixel edge that it crosses.
CHESSBOARD = math.pi / 4


class Coarseness(nn.Module):
    """How far off a given mask is, from what lies inside, outside and near its contour.

    One network for masks of any source has to know whose they are: the same contour may be five
    pixels too wide all around, or right but jagged. Ours.

    Args:
        dim: channels of the features.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(3 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU()
        )
        self.estimate = nn.Linear(dim, 2)
        self.tell = nn.Linear(dim + 2, 2 * dim)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, features: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate, and tell every cell.

        Args:
            features: (T, C, h, w).
            inside: (T, h, w) in [0, 1], share of each cell that the mask covers.

        Returns:
            (T, C, h, w) features, scaled and shifted by what was found; and (2,), as
            ``displacement`` says it.
        """
        near = F.max_pool2d(inside, 3, 1, 1) + F.max_pool2d(-inside, 3, 1, 1)
        pooled = torch.cat([pool(features, weight) for weight in (inside, 1 - inside, near)])
        hidden = self.hidden(pooled)
        estimate: Tensor = self.estimate(hidden)
        scale, shift = self.tell(torch.cat([hidden, estimate]))[:, None, None].chunk(2)
        return features * (1 + scale) + shift, estimate


def pool(features: Tensor, weight: Tensor) -> Tensor:
    """(T, C, h, w) and (T, h, w) weights -> (C,), the weighted mean."""
    return torch.einsum("tchw,thw->c", features, weight) / weight.sum().clamp(min=1e-3)


def odds_of_given(estimate: Tensor, prior: Sequence[float]) -> Tensor:
    """What the estimate alone says about the pixels of a given mask.

    A mask that is nearly right is not to be redrawn where the network is only half sure, and one
    that is far off deserves no trust. Ours.

    Args:
        estimate: (2,) of ``Coarseness``.
        prior: log odds that a pixel is labelled right in a mask that is off by nothing, how much
            less they are per pixel of mean distance between contours, and the least.

    Returns:
        Log odds, ().
    """
    right, less, least = prior
    return (right - less * estimate[0].float().expm1()).clamp(min=least)


def displacement(share: Tensor, masks_gt: Tensor) -> Tensor:
    """How far a mask is off.

    Args:
        share: (T, 1, h, w) in [0, 1], the mask.
        masks_gt: (T, h, w) bool, what it should be.

    Returns:
        (2,): log(1 + d) of the mean distance d between contours in pixels, and the same of how much
        too wide the mask is, negative where it is too narrow.
    """
    truth, mask = masks_gt.float(), share[:, 0]
    length = (truth[:, 1:] - truth[:, :-1]).abs().sum()
    length = length + (truth[..., 1:] - truth[..., :-1]).abs().sum()
    length = (length * CHESSBOARD).clamp(min=1)
    off, wide = (mask - truth).abs().sum() / length, (mask - truth).sum() / length
    return torch.stack([off.log1p(), wide.sign() * wide.abs().log1p()])
