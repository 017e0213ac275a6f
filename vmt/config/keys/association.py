"""How frames become tracks after a network for frames; [I]: the code of IDOL, arXiv:2207.10661."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "TEST.BISOFTMAX")
    # "auto": the one that the method is published with; else bisoftmax or embedding_hungarian.
    cfg.TEST.ASSOCIATION = "auto"
    # Queries with a class above it are detections, in [0, 1] [I].
    cfg.TEST.BISOFTMAX.SELECT_SCORE = 0.1
    # Of two detections whose masks overlap more, the better stays; [I]: 0.5, OVIS 0.3.
    cfg.TEST.BISOFTMAX.MASK_IOU = 0.5
    # Score above which a detection without partner starts a track; [I]: 0.2, OVIS 0.3.
    cfg.TEST.BISOFTMAX.BIRTH_SCORE = 0.2
    # "greedy" by detection score [I] or "hungarian" [D].
    cfg.TEST.BISOFTMAX.MATCHING = "greedy"
    # Class scores of a track: "mean" of its frames [I] or their "max".
    cfg.TEST.BISOFTMAX.SCORE = "mean"
