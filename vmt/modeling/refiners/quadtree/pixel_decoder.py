"""The dynamic pixel decoder: every tracklet's own layers turn its nodes into mask logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.dynamic_conv import apply_dynamic_layers, split_dynamic_parameters

#: Widths of the dynamic layers: dx, dy, coarse probability and 8 channels of the token.
WIDTHS = (11, 8, 8, 1)


class PixelDecoder(nn.Module):
    """Tokens -> logits, at nodes only.

    Source: arXiv:2207.14012, section 3.1, "the output is sent into the dynamic pixel decoder"; its
    layers are those of the released code's ``controller_refine``.

    Args:
        dim: channels of tokens.
        shared: add the logits of layers that are the same for all tracklets (ours). The dynamic
            ones are 8 units wide, of which many die in training from random weights; these begin
            at 0.
    """

    def __init__(self, dim: int, shared: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, WIDTHS[0] - 3)
        self.shared: nn.Sequential | None = None
        if shared:
            last = nn.Linear(2 * dim, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.shared = nn.Sequential(nn.Linear(dim + 1, 2 * dim), nn.ReLU(), last)

    def forward(
        self,
        x: Tensor,
        offsets: Tensor,
        coarse: Tensor,
        parameters: Tensor,
        lengths: Sequence[int],
    ) -> Tensor:
        """Decode.

        Args:
            x: (P, C) tokens, tracklet after tracklet.
            offsets: (P, 2) as (dx, dy): instance centre minus node centre.
            coarse: (P,) coarse probability.
            parameters: (N, 177) weights of the dynamic layers.
            lengths: nodes of each of the N tracklets.

        Returns:
            (P,) logits.
        """
        own = torch.cat([offsets, coarse[:, None]], dim=1)
        stacked = torch.cat([own, F.relu(self.reduce(x))], dim=1)  # (P, 11)
        logits = [stacked.new_zeros(0)]
        for n, nodes in enumerate(stacked.split(list(lengths))):
            layers = split_dynamic_parameters(parameters[n : n + 1], WIDTHS)
            logits.append(apply_dynamic_layers(nodes.T[None], layers)[0, 0])
        decoded = torch.cat(logits)
        if self.shared is not None:
            decoded = decoded + self.shared(torch.cat([x, own[:, 2:]], dim=1))[:, 0]
        return decoded
