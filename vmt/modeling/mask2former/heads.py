"""Class and mask heads; all layers of the decoder share them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vmt.layers.mlp import MLP


class Heads(nn.Module):
    """The heads, and the norm that queries pass before them.

    An *embedding* is a query that has passed the norm; it is what both heads take.

    Args:
        dim: C.
        num_classes: from the label space.
        mask_dim: channels of the pixel map.
    """

    def __init__(self, dim: int, num_classes: int, mask_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.cls = nn.Linear(dim, num_classes + 1)
        self.mask = MLP(dim, dim, mask_dim, 3)

    def classes(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., num_classes + 1) logits; the last is "no object"."""
        logits: Tensor = self.cls(embeds)
        return logits

    def kernels(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., mask_dim): what the pixel map is multiplied with."""
        kernels: Tensor = self.mask(embeds)
        return kernels

    def masks(self, embeds: Tensor, pixel: Tensor) -> Tensor:
        """Masks of one batch.

        Args:
            embeds: (..., Q, C).
            pixel: (..., mask_dim, h, w).

        Returns:
            (..., Q, h, w) logits.
        """
        return torch.einsum("...qc,...chw->...qhw", self.kernels(embeds), pixel)
