"""Refiners of given masks [D]."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MASK_REFINER")
    # Where the instance query comes from: "mask_pool", the features under the mask; or "detector",
    # a frozen SeqFormer on whole frames [P]. Of the following keys it reads BAND_CELLS and
    # PROMPT_LEVELS only, and REFINER.TRAIN_TRACKLETS.
    cfg.MODEL.MASK_REFINER.QUERY_SOURCE = "mask_pool"
    # Channels of its stride-8 map and query.
    cfg.MODEL.MASK_REFINER.DIM = 64
    # Objects are cut out with their surroundings; cut-outs whose longer side is shorter than the
    # first or longer than the second, in pixels, are resized.
    cfg.MODEL.MASK_REFINER.CROP_SIZES = [96, 384]
    # Surroundings on each side: share of the longer side, and least number of pixels.
    cfg.MODEL.MASK_REFINER.MARGIN = 0.1
    cfg.MODEL.MASK_REFINER.MIN_MARGIN_PX = 24
    # Stride-8 cells around the coarse contour that are refined whatever the detector says.
    cfg.MODEL.MASK_REFINER.BAND_CELLS = 1
    # Levels of the quadtree that know the given mask at their own resolution: its band and its
    # share of each cell. 3: all; 1: the coarsest, whose values the finer ones interpolate.
    cfg.MODEL.MASK_REFINER.PROMPT_LEVELS = 3
    # Windows in which colours inside and outside of the coarse mask are compared; none: nowhere.
    cfg.MODEL.MASK_REFINER.COLOUR_RADII_PX = []
    # Most tracklets per clip in training, at random; 0: all.
    cfg.MODEL.MASK_REFINER.TRAIN_TRACKLETS = 2
    # Weight of the cross entropy of masks that the stride-8 map alone tells, in training; 0: none.
    cfg.MODEL.MASK_REFINER.DENSE_WEIGHT = 0.0
