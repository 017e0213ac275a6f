"""Class and mask heads; all layers of the decoder share them."""

from __future__ import annotations

from torch import Tensor, nn

from vmt.layers.mlp import MLP
from vmt.modeling.pixel_map_model import KernelHeads


class Heads(KernelHeads):
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
