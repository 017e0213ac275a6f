"""IDOL: losses of its embeddings. Its network has the keys of CondInst, its other losses LOSS."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.IDOL")
    # Weight of the contrastive loss, and of the squared error of cosines, which IDOL's code adds
    # and its paper does not name; RefineVIS (arXiv:2306.04774, Eq. 1) has 1 and none.
    cfg.MODEL.IDOL.CONTRASTIVE_WEIGHT = 2.0
    cfg.MODEL.IDOL.COSINE_WEIGHT = 3.0
