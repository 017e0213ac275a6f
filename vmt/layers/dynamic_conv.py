"""Dynamic 1x1 layers: every instance brings its own weights (CondInst, arXiv:2003.05664)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.utils.precision import no_autocast


def num_dynamic_parameters(channels: Sequence[int]) -> int:
    """Weights and biases of a chain of 1x1 layers: 169 for (10, 8, 8, 1), 177 for (11, 8, 8, 1)."""
    return sum(a * b + b for a, b in pairwise(channels))


def split_dynamic_parameters(
    parameters: Tensor, channels: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Cut parameter vectors into layers: all weights first, (out, in) row-major; then all biases.

    Args:
        parameters: (N, num_dynamic_parameters(channels)).
        channels: widths from input to output.

    Returns:
        Per layer (N, out, in) and (N, out).
    """
    shapes = [(b, a) for a, b in pairwise(channels)]
    pieces = parameters.split([b * a for b, a in shapes] + [b for b, _ in shapes], dim=1)
    return [
        (pieces[i].unflatten(1, shape), pieces[len(shapes) + i]) for i, shape in enumerate(shapes)
    ]


def apply_dynamic_layers(features: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Run every instance's own layers over its own map, ReLU between them.

    In the type of the features under autocast too: the first channels are places in pixels.

    Args:
        features: (N, C_in, ...) with one or more trailing axes of cells.
        layers: from ``split_dynamic_parameters``.

    Returns:
        (N, C_out, ...).
    """
    cells = features.shape[2:]
    x = features.flatten(2)  # (N, C, cells)
    with no_autocast(x.device):
        for index, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias[:, :, None].to(x.dtype), weight.to(x.dtype), x)
            if index < len(layers) - 1:
                x = F.relu_(x)
    maps: Tensor = x.unflatten(2, cells)
    return maps
