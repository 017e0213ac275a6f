"""Linear layers with ReLU between them."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """``num_layers`` linear layers, ReLU after all but the last.

    Args:
        in_dim: channels in.
        hidden_dim: channels between.
        out_dim: channels out.
        num_layers: at least 1.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for index, layer in enumerate(self.layers):
            x = layer(x) if index == len(self.layers) - 1 else F.relu(layer(x))
        return x


def controller(dim: int, num_parameters: int) -> MLP:
    """The MLP that turns an instance query into the weights of its dynamic layers.

    Xavier weights and zero biases, as SeqFormer initialises it (arXiv:2112.08275, section 3.2).
    """
    mlp = MLP(dim, dim, num_parameters, 3)
    for layer in mlp.layers:
        assert isinstance(layer, nn.Linear), "an MLP holds linear layers only"
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return mlp
