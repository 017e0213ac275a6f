"""What all refiners share, and ``dense_band``."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.REFINER", "MODEL.LOSS", "TEST")
    # "none" (SeqFormer) or a name in the registry REFINERS.
    cfg.MODEL.REFINER.NAME = "none"
    # Width, heads, layers, feed-forward width of the refinement transformer [R].
    cfg.MODEL.REFINER.EMBED_DIM = 64
    cfg.MODEL.REFINER.NUM_HEADS = 4
    cfg.MODEL.REFINER.NUM_LAYERS = 3
    cfg.MODEL.REFINER.FFN_DIM = 2048
    cfg.MODEL.REFINER.DROPOUT = 0.1
    # Most points refined. dense_band: per frame, above it those nearest to a contour [R: 12000];
    # quadtree: per tracklet and 40 frames (of a longer video accordingly more), above it those the
    # detector is surest of, with their parents. What is left out is counted in the log.
    cfg.MODEL.REFINER.MAX_POINTS = 12000
    # On a network for frames (IDOL, MinVIS, RefineVIS): all of it learns; False: it stays as it is,
    # in evaluation mode, and the refiner learns alone [D].
    cfg.MODEL.REFINER.TRAIN_BASE = True
    # On a network for frames: most frames that are refined together. With TEST.WINDOW 0 these are
    # a frame and those before it, without delay, and each is read so often; windows are refined
    # once [D].
    cfg.TEST.REFINE_WINDOW = 5
    # Mask focal, tube dice, dice inside the incoherent region, and the stage in between: mask focal
    # of dense_band's second stage, L1 of the quadtree's nodes [D].
    cfg.MODEL.LOSS.REFINE_MASK_WEIGHT = 2.0
    cfg.MODEL.LOSS.REFINE_DICE_WEIGHT = 5.0
    cfg.MODEL.LOSS.REFINE_BOUNDARY_WEIGHT = 5.0
    cfg.MODEL.LOSS.REFINE_STAGE_WEIGHT = 2.0
