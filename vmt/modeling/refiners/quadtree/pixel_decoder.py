"""The dynamic pixel decoder: every tracklet's own layers turn its nodes into mask logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.dynamic_conv import apply_dynamic_layers, split_dynamic_parameters
from vmt.utils.device import index_on

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
        decode = _one_by_one if stacked.device.type == "cpu" else _together
        decoded = decode(stacked, parameters, lengths)
        if self.shared is not None:
            decoded = decoded + self.shared(torch.cat([x, own[:, 2:]], dim=1))[:, 0]
        return decoded


def _one_by_one(nodes: Tensor, parameters: Tensor, lengths: Sequence[int]) -> Tensor:
    """(P, 11) and (N, 177) -> (P,): every tracklet's layers over its own nodes, in turn."""
    logits = [nodes.new_zeros(0)]
    for n, own in enumerate(nodes.split(list(lengths))):
        layers = split_dynamic_parameters(parameters[n : n + 1], WIDTHS)
        logits.append(apply_dynamic_layers(own.T[None], layers)[0, 0])
    return torch.cat(logits)


def _together(nodes: Tensor, parameters: Tensor, lengths: Sequence[int]) -> Tensor:
    """The same in as many launches as for one tracklet, padded to the longest."""
    count, device = len(nodes), nodes.device
    sizes = index_on(device, lengths)
    numbers = torch.arange(len(lengths), device=device)
    tracklet = numbers.repeat_interleave(sizes, output_size=count)
    column = torch.arange(count, device=device) - (sizes.cumsum(0) - sizes)[tracklet]
    padded = nodes.new_zeros(len(lengths), max(lengths, default=0), nodes.shape[1])
    padded = padded.index_put((tracklet, column), nodes)
    layers = split_dynamic_parameters(parameters, WIDTHS)
    logits: Tensor = apply_dynamic_layers(padded.transpose(1, 2), layers)[tracklet, 0, column]
    return logits
