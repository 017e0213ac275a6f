"""The finest map of an encoder, joined with the backbone's stride 4: what masks are dots with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vmt.layers.projection import NORM_GROUPS


class PixelMap(nn.Module):
    """One step of a feature pyramid network, then a 1x1 convolution.

    Source: Mask2Former (arXiv:2112.01527, section 3.2.1) and its code; MaskDINO has the same.

    Args:
        in_dim: channels of the backbone map.
        dim: channels of the encoder map.
        out_dim: channels of the result.
    """

    def __init__(self, in_dim: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.features = nn.Conv2d(dim, out_dim, 1)
        for conv in (self.lateral, self.output, self.features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        assert self.features.bias is not None, "the last convolution has a bias"
        nn.init.zeros_(self.features.bias)

    def forward(self, fine: Tensor, finest_level: Tensor) -> Tensor:
        """Join the two.

        Args:
            fine: (B, in_dim, h, w) of the backbone.
            finest_level: (B, dim, h', w') of the encoder, of any size.

        Returns:
            (B, out_dim, h, w).
        """
        x = self.lateral_norm(self.lateral(fine))
        size = (int(x.shape[-2]), int(x.shape[-1]))
        x = x + F.interpolate(finest_level, size, mode="bilinear", align_corners=False)
        x = F.relu(self.output_norm(self.output(x)))
        features: Tensor = self.features(x)
        return features
