"""Backbone names of the config -> networks."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.resnet import ResNet
from vmt.modeling.backbones.swin import Swin
from vmt.modeling.backbones.timm_features import TimmFeatures
from vmt.modeling.registry import BACKBONES, lookup, register
from vmt.utils.errors import ConfigError

TIMM_PREFIX = "timm/"


@register(BACKBONES, "resnet50")
def _resnet50(node: CfgNode) -> Backbone:
    return ResNet("resnet50", pretrained=node.PRETRAINED, freeze_stages=node.FREEZE_STAGES)


@register(BACKBONES, "resnet101")
def _resnet101(node: CfgNode) -> Backbone:
    return ResNet("resnet101", pretrained=node.PRETRAINED, freeze_stages=node.FREEZE_STAGES)


@register(BACKBONES, "swin_l_p4w12")
def _swin_l(node: CfgNode) -> Backbone:
    source = "swin_large_patch4_window12_384.ms_in22k" if node.PRETRAINED else None
    return Swin(pretrained=source)


def build_backbone(cfg: CfgNode, in_channels: int = 3) -> Backbone:
    """Build ``MODEL.BACKBONE.NAME``.

    Args:
        cfg: the config.
        in_channels: of the frames; other than 3 with timm networks only.

    Raises:
        ConfigError: an unknown name, or a key that the network does not know.
    """
    node = cfg.MODEL.BACKBONE
    if node.NAME.startswith(TIMM_PREFIX):
        return TimmFeatures(
            node.NAME.removeprefix(TIMM_PREFIX),
            pretrained=node.PRETRAINED,
            in_channels=in_channels,
            norm=node.NORM,
            widths=node.WIDTHS,
        )
    if in_channels != 3 or node.NORM != "frozen" or node.WIDTHS:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME {node.NAME} has three input channels, frozen norms and widths of "
            "its own; timm/<name> networks take others (MODEL.BACKBONE.NORM, WIDTHS)."
        )
    builder = lookup(BACKBONES, node.NAME, "MODEL.BACKBONE.NAME (or timm/<any timm name>)")
    backbone = builder(node)
    assert isinstance(backbone, Backbone), "a registered builder must return a Backbone"
    return backbone
