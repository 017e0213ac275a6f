"""MODEL.META_ARCHITECTURE MaskRefiner; QueryMaskRefiner reads none of them [D]."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MASK_REFINER")
    # Channels of its stride-8 map and query.
    cfg.MODEL.MASK_REFINER.DIM = 64
    # Objects are cut out with their surroundings; cut-outs whose longer side is shorter than the
    # first or longer than the second, in pixels, are resized.
    cfg.MODEL.MASK_REFINER.CROP_SIZES = [96, 384]
    # Windows in which colours inside and outside of the coarse mask are compared; none: nowhere.
    cfg.MODEL.MASK_REFINER.COLOUR_RADII_PX = []
    # Weight of the cross entropy of masks that the stride-8 map alone tells, in training; 0: none.
    cfg.MODEL.MASK_REFINER.DENSE_WEIGHT = 0.0
    # Frames on each side whose masks, brought into place by optical flow, the network reads beside
    # the mask itself; 0: none.
    cfg.MODEL.MASK_REFINER.VOTES_REACH = 0
    # Weight of the loss of how far off the given mask is, which the network estimates and is told;
    # 0: it estimates nothing.
    cfg.MODEL.MASK_REFINER.COARSENESS_WEIGHT = 0.0
    # Channels at strides 4, 8, 16 and 32 of a second, narrow network from random weights whose maps
    # of strides 2 and 4 take the place of the backbone's; none: without.
    cfg.MODEL.MASK_REFINER.DETAIL_WIDTHS = []
    # Log odds that a pixel of a given mask is labelled right, which are added to what the network
    # says, not in training: those of a mask that is estimated to be off by nothing, how much less
    # they are per pixel of distance, and the least; none: nothing is added.
    cfg.MODEL.MASK_REFINER.PRIOR = []
