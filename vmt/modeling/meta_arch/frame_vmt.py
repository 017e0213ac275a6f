"""Video Mask Transfiner on a network for frames: its association, and masks of a refiner."""

from __future__ import annotations

from typing import cast

from fvcore.common.config import CfgNode

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.frame_training import SharpenableModel
from vmt.modeling.refiners.tracks import TrackLosses
from vmt.modeling.registry import REFINERS, lookup
from vmt.modeling.video_model import FrameModel
from vmt.utils.errors import ConfigError


def add_refiner(model: FrameModel, cfg: CfgNode) -> None:
    """Give a network for frames the refiner of ``MODEL.REFINER``.

    Args:
        model: as built.
        cfg: with every key.

    Raises:
        ConfigError: a network without queries, or a value that its key does not allow.
    """
    node = cfg.MODEL.REFINER
    if not isinstance(model, SharpenableModel):
        raise ConfigError(
            f"MODEL.REFINER.NAME is {node.NAME!r}, but {cfg.MODEL.META_ARCHITECTURE} has no "
            "queries that a refiner could read; choose none, or a network like IDOL, RefineVIS or "
            "QDTrackVMT."
        )
    entry = lookup(REFINERS, node.NAME, "MODEL.REFINER.NAME (or none)")
    backbone = cast(Backbone, model.get_submodule(model.backbone_path))
    refiner = entry.from_config(cfg, backbone.channels, model.embed_dim)
    for part in model.modules():
        if isinstance(part, FrameModel):
            part.keeps_maps = True
    model.refiner = refiner
    model.sharpening = TrackLosses(refiner, entry.criterion(cfg))
    if not node.TRAIN_BASE:
        model.freeze_base()
