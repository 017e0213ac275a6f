"""Any timm network with feature maps at strides 4 to 32 as a backbone: ``timm/<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers import GroupNorm
from torch import Tensor

from vmt.layers.fixed_norm import fold_norms
from vmt.modeling.backbones.base import Backbone, freeze_batch_norm
from vmt.utils.errors import ConfigError

NEEDED_STRIDES = (4, 8, 16, 32)
NORMS = ("frozen", "folded", "group")
#: Groups of every group norm.
GROUPS = 8


class TimmFeatures(Backbone):
    """timm's ``features_only`` network.

    Args:
        name: timm's name, without ``timm/``.
        pretrained: weights through timm.
        in_channels: of the frames.
        norm: "frozen", batch norm that stays as it is, "folded" into convolutions, see
            ``FixedNormConv``, or "group", group norm, which learns from random weights.
        widths: channels of the stages, for networks whose constructor takes ``channels``; none:
            the network's own.

    Raises:
        ConfigError: timm does not know the name, it has no maps at strides 4, 8, 16 and 32, or it
            does not take the norm or the widths.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        in_channels: int = 3,
        norm: str = "frozen",
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ConfigError(f"MODEL.BACKBONE.NORM must be one of {', '.join(NORMS)}, not {norm}.")
        key = f"MODEL.BACKBONE.NAME: timm/{name}"
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise ConfigError(f"{key} is unknown to timm; near it: {', '.join(near) or 'nothing'}.")
        extra: dict[str, Any] = {}
        if norm == "group":
            extra["norm_layer"] = partial(GroupNorm, num_groups=GROUPS)
        if widths:
            extra["channels"] = tuple(widths)
        try:
            body = timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=in_channels, **extra
            )
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            raise ConfigError(f"{key} gives no feature maps ({error}).") from error
        self.body = freeze_batch_norm(body) if norm == "frozen" else body
        if norm == "folded" and (left := fold_norms(self.body)):
            raise ConfigError(f"{key} has {left} norms without a convolution to fold them into.")
        info = zip(body.feature_info.reduction(), body.feature_info.channels(), strict=True)
        self.channels = {int(stride): int(channels) for stride, channels in info}
        lacking = [stride for stride in NEEDED_STRIDES if stride not in self.channels]
        if lacking:
            raise ConfigError(
                f"{key} has maps at strides {list(self.channels)}; {lacking} are needed too."
            )

    def forward(self, frames: Tensor) -> dict[int, Tensor]:
        """(B*T, 3, H, W) -> maps by stride, sizes rounded up."""
        h, w = frames.shape[-2:]
        # Many timm networks round sizes down; whole cells of the coarsest map leave nothing over.
        coarsest = max(self.channels)
        padded = F.pad(frames, (0, -w % coarsest, 0, -h % coarsest))
        maps = {}
        for (stride, channels), x in zip(self.channels.items(), self.body(padded), strict=True):
            channels_last = x.shape[1] != channels and x.shape[-1] == channels
            x = x.permute(0, 3, 1, 2) if channels_last else x
            maps[stride] = x[..., : -(-h // stride), : -(-w // stride)].contiguous()
        return maps
