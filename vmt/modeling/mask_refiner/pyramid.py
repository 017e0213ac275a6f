"""Maps of strides 8, 16 and 32 as one of stride 8, and a second, finer network beside a first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.backbones.timm_features import TimmFeatures

#: Groups of every group norm outside the backbone.
GROUPS = 8
#: Strides that are fused.
STRIDES = (8, 16, 32)
#: timm's network with three convolutions of stride 2 before its first stage.
DETAIL = "resnet18d"


def build_laterals(channels: Mapping[int, int], dim: int) -> nn.ModuleDict:
    """Projections of the maps of a backbone to ``dim`` channels."""
    return nn.ModuleDict({str(s): nn.Conv2d(channels[s], dim, 1) for s in STRIDES})


def build_fuse(dim: int) -> nn.Sequential:
    """What follows the sum of the maps."""
    return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(GROUPS, dim), nn.ReLU())


def sum_maps(maps: Mapping[int, Tensor], laterals: nn.ModuleDict) -> Tensor:
    """Maps by stride, from the coarsest to stride 8, projected and added: (T, C, h8, w8)."""
    top: Tensor = laterals["32"](maps[32])
    for stride in (16, 8):
        side = laterals[str(stride)](maps[stride])
        top = side + F.interpolate(top, side.shape[-2:], mode="nearest")
    return top


class Detail(nn.Module):
    """A narrow ResNet whose fine maps are wide, for a backbone whose fine maps are narrow.

    EfficientNet-Lite0 has 16 channels at stride 2 and 24 at stride 4, through which the pixels, the
    given mask and all cues have to pass; this has 64 and 32 (with ``widths`` of 32, 64, 96 and
    128). It learns from random weights and decides about single pixels; the backbone's ImageNet
    features tell what an object is. Ours.

    Args:
        in_channels: of what is read.
        widths: channels at strides 4, 8, 16 and 32.
        dim: channels of the stride-8 map.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.backbone = TimmFeatures(DETAIL, in_channels=in_channels, norm="group", widths=widths)
        self.channels = self.backbone.channels
        self.laterals = build_laterals(self.channels, dim)
        self.fuse = build_fuse(dim)
        self.add = nn.Conv2d(dim, dim, 1)
        for parameter in self.add.parameters():
            nn.init.zeros_(parameter)

    def forward(self, read: Tensor, fused: Tensor) -> tuple[Mapping[int, Tensor], Tensor]:
        """Maps of its own, and the stride-8 map of both networks.

        Args:
            read: (T, channels, h, w).
            fused: (T, C, h8, w8), of the backbone.
        """
        maps = self.backbone(read)
        both: Tensor = self.fuse(sum_maps(maps, self.laterals)) + self.add(fused)
        return maps, both
