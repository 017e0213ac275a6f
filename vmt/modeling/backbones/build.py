"""Backbone names of the config -> networks."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.resnet import ResNet
from vmt.modeling.backbones.swin import Swin
from vmt.modeling.backbones.timm_features import TimmFeatures
from vmt.modeling.registry import BACKBONES, lookup, register

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
    return Swin(drop_path=node.DROP_PATH, pretrained=source)


def build_backbone(cfg: CfgNode) -> Backbone:
    """Build ``MODEL.BACKBONE.NAME``.

    Raises:
        ConfigError: an unknown name.
    """
    node = cfg.MODEL.BACKBONE
    if node.NAME.startswith(TIMM_PREFIX):
        return TimmFeatures(node.NAME.removeprefix(TIMM_PREFIX), pretrained=node.PRETRAINED)
    builder = lookup(BACKBONES, node.NAME, "MODEL.BACKBONE.NAME (or timm/<any timm name>)")
    backbone = builder(node)
    assert isinstance(backbone, Backbone), "a registered builder must return a Backbone"
    return backbone
