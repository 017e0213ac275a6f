"""MaskDINO: sizes and query selection, as its published configs with FFN 2048 have them."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MASKDINO")
    cfg.MODEL.MASKDINO.DIM = 256
    cfg.MODEL.MASKDINO.NUM_HEADS = 8
    cfg.MODEL.MASKDINO.NUM_POINTS = 4
    cfg.MODEL.MASKDINO.ENCODER_LAYERS = 6
    # 2048, or 1024 in the smaller published network.
    cfg.MODEL.MASKDINO.ENCODER_FFN_DIM = 2048
    # 9 as published; RefineVIS has 6 with R50 (arXiv:2306.04774, section 4.2).
    cfg.MODEL.MASKDINO.DECODER_LAYERS = 9
    cfg.MODEL.MASKDINO.DECODER_FFN_DIM = 2048
    cfg.MODEL.MASKDINO.DROPOUT = 0.0
    # Channels of the pixel map, stride 4.
    cfg.MODEL.MASKDINO.MASK_DIM = 256
    cfg.MODEL.MASKDINO.NUM_QUERIES = 300
    # Backbone maps that become levels of the encoder, in input pixels per cell, and levels that
    # halve the coarsest again.
    cfg.MODEL.MASKDINO.STRIDES = [8, 16, 32]
    cfg.MODEL.MASKDINO.EXTRA_LEVELS = 1
    # Order of the levels in the encoder; the decoder's is the opposite one. "high2low", coarse to
    # fine, gives small prior boxes to fine levels; "low2high", which most published weights have,
    # the reverse.
    cfg.MODEL.MASKDINO.LEVEL_ORDER = "low2high"
    # First anchors: "regressed" (the box of the proposal), the box of its mask as published
    # ("bitmask", "mask2box"), or "mask": as bitmask, but regressed where the mask is empty [D].
    cfg.MODEL.MASKDINO.BOX_INIT = "mask"
    # Queries of annotated objects in training (DN-DETR), over all groups; 0: none. Largest shift of
    # their boxes, in half sides for centres and in sides for sizes; half as often their class is
    # another one.
    cfg.MODEL.MASKDINO.DN_QUERIES = 100
    cfg.MODEL.MASKDINO.DN_NOISE = 0.4
    # "positive", as MaskDINO; "contrastive", as DINO and RefineVIS: each has a negative beside it,
    # and DN_NOISE moves corners, in half sides.
    cfg.MODEL.MASKDINO.DN_KIND = "positive"
    # How queries get their objects in training: "hungarian", one each, as MaskDINO; "ota", several
    # by SimOTA, as RefineVIS on videos (arXiv:2306.04774, section 4.1). Proposals have one in both.
    cfg.MODEL.MASKDINO.MATCHER = "hungarian"
