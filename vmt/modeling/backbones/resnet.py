"""ResNet-50 and -101 with frozen batch norm, and the tap at stride 2 that the released VMT uses."""

from __future__ import annotations

import timm
from torch import Tensor

from vmt.modeling.backbones.base import Backbone, freeze_batch_norm

#: The parts that ``freeze_stages`` counts.
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


class ResNet(Backbone):
    """timm's ResNet v1.5 (stride in the 3x3), its maps at strides 2, 4, 8, 16, 32.

    The stride-2 map is the raw output of the first convolution, before batch norm and ReLU: the
    released VMT refines with it (our parity data confirm it).

    Args:
        name: timm's name, ``resnet50`` or ``resnet101``.
        pretrained: ImageNet weights through timm.
        freeze_stages: 0 nothing, 1 the stem, 2 stem and layer1, ... Batch norm is always frozen.
    """

    def __init__(self, name: str, pretrained: bool = False, freeze_stages: int = 2) -> None:
        super().__init__()
        body = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")
        self.body = freeze_batch_norm(body)
        self.channels = {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}
        stages = [self.body.get_submodule(name) for name in STAGES]
        for stage in stages[:freeze_stages]:
            stage.requires_grad_(False)

    def forward(self, frames: Tensor) -> dict[int, Tensor]:
        """(B*T, 3, H, W) -> maps by stride; the stride-2 one is the raw first convolution."""
        part = self.body.get_submodule
        raw: Tensor = part("conv1")(frames)
        x = part("maxpool")(part("act1")(part("bn1")(raw)))
        maps = {2: raw}
        for index, stride in enumerate((4, 8, 16, 32), start=1):
            x = part(f"layer{index}")(x)
            maps[stride] = x
        return maps
