"""What every backbone is: frames in, one map per stride out, strides and channels declared."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """A feature pyramid.

    Attributes:
        channels: stride in input pixels -> channels of the map with that stride. Strides 4, 8, 16
            and 32 are always there; 2 where the network has such a map.
    """

    channels: dict[int, int]

    def forward(self, frames: Tensor) -> dict[int, Tensor]:
        """Compute the maps.

        Args:
            frames: (B*T, 3, H, W), normalised.

        Returns:
            stride -> (B*T, channels[stride], ceil(H / stride), ceil(W / stride)).
        """
        raise NotImplementedError
