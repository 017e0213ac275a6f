"""Mask2Former, which MinVIS is on videos: sizes as its published configs have them."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MASK2FORMER", "MODEL.LOSS")
    cfg.MODEL.MASK2FORMER.DIM = 256
    cfg.MODEL.MASK2FORMER.NUM_HEADS = 8
    # Sampling points of the encoder's attention, per head and level.
    cfg.MODEL.MASK2FORMER.NUM_POINTS = 4
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6
    cfg.MODEL.MASK2FORMER.ENCODER_FFN_DIM = 1024
    # Each reads one level: strides 32, 16, 8 and again.
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 9
    cfg.MODEL.MASK2FORMER.DECODER_FFN_DIM = 2048
    cfg.MODEL.MASK2FORMER.DROPOUT = 0.0
    # Channels of the pixel map, stride 4.
    cfg.MODEL.MASK2FORMER.MASK_DIM = 256
    # 100; 200 with Swin-L as published for COCO.
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 100
    # Weight of "no object" in the class loss.
    cfg.MODEL.MASK2FORMER.NO_OBJECT_WEIGHT = 0.1
    # Places per mask where costs and losses of Mask2Former and MaskDINO look.
    cfg.MODEL.LOSS.MASK_POINTS = 12544
