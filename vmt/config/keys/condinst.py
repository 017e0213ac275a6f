"""CondInst on Deformable DETR; all values as IDOL is published."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.CONDINST")
    cfg.MODEL.CONDINST.DIM = 256
    cfg.MODEL.CONDINST.NUM_HEADS = 8
    cfg.MODEL.CONDINST.NUM_POINTS = 4
    # Levels of the encoder: strides 8, 16, 32, and those that halve the last one again.
    cfg.MODEL.CONDINST.NUM_LEVELS = 4
    cfg.MODEL.CONDINST.ENCODER_LAYERS = 6
    cfg.MODEL.CONDINST.DECODER_LAYERS = 6
    cfg.MODEL.CONDINST.FFN_DIM = 1024
    cfg.MODEL.CONDINST.DROPOUT = 0.1
    cfg.MODEL.CONDINST.NUM_QUERIES = 300
    # Channels of the map that the dynamic layers read.
    cfg.MODEL.CONDINST.MASK_CHANNELS = 8
