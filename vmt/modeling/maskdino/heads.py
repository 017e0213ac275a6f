"""Class, box and mask heads; encoder tokens and all decoder layers share them."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vmt.layers.mlp import MLP
from vmt.modeling.pixel_map_model import KernelHeads

#: Initial foreground probability of the focal loss (arXiv:1708.02002, section 4.1).
PRIOR = 0.01


class Heads(KernelHeads):
    """The heads, and the norm that queries pass before them.

    An *embedding* is a query that has passed the norm once. As published, class and mask head
    apply the same norm to it a second time, and the box head of the losses does not.

    Args:
        dim: C.
        num_classes: from the label space.
        mask_dim: channels of the pixel map.
    """

    def __init__(self, dim: int, num_classes: int, mask_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.cls = nn.Linear(dim, num_classes)
        self.box = MLP(dim, dim, 4, 3)
        self.mask = MLP(dim, dim, mask_dim, 3)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))
        last = self.box.layers[-1]
        assert isinstance(last, nn.Linear), "an MLP ends in a linear layer"
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def classes(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., num_classes) logits."""
        logits: Tensor = self.cls(self.norm(embeds))
        return logits

    def kernels(self, embeds: Tensor) -> Tensor:
        """(..., C) -> (..., mask_dim): what the pixel map is multiplied with."""
        kernels: Tensor = self.mask(self.norm(embeds))
        return kernels
