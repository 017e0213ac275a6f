"""What every backbone is: frames in, one map per stride out, strides and channels declared."""

from __future__ import annotations

import torch
from timm.layers import freeze_batch_norm_2d
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

#: Norms with a fixed scale and shift, as ``freeze_batch_norm`` makes them.
FROZEN_NORMS = (FrozenBatchNorm2d, FrozenBatchNormAct2d)


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

    def stage_modules(self) -> list[nn.Module]:
        """Blocks whose forward pass is worth repeating for its memory, by timm's names."""
        body = next((part for name, part in self.named_children() if name == "body"), self)
        return [
            stage
            for name, part in body.named_children()
            if name.startswith(("layer", "stages", "blocks"))
            for stage in (part if isinstance(part, nn.ModuleList) else [part])
        ]


def freeze_batch_norm(body: nn.Module) -> nn.Module:
    """Batch norm as a fixed scale and shift: clips are few per step, so their statistics are poor.

    timm starts the last norm of a residual branch at scale 0. Frozen, such a branch would stay dead
    for ever, so scales that are zero everywhere (fresh weights only) become 1.
    """
    for module in body.modules():
        if not isinstance(module, nn.BatchNorm2d) or module.weight.is_meta:
            continue
        if not module.weight.any():
            nn.init.ones_(module.weight)
    with torch.no_grad():
        frozen: nn.Module = freeze_batch_norm_2d(body)
    return frozen
