"""How frames become tracks after a network for frames.

[I]: the code of IDOL, arXiv:2207.10661. [Q]: QDTrack, arXiv:2006.06664, as published for BDD100K.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "TEST.BISOFTMAX", "TEST.QUASI_DENSE", "TEST.REFINEVIS")
    # "auto": as the method is published; else bisoftmax, embedding_hungarian, quasi_dense or
    # refinevis.
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
    # Score above which a detection without partner starts a track [Q].
    cfg.TEST.QUASI_DENSE.INIT_SCORE = 0.7
    # Score above which a detection may join a track [Q].
    cfg.TEST.QUASI_DENSE.OBJECT_SCORE = 0.3
    # Similarity above which it does [Q].
    cfg.TEST.QUASI_DENSE.MATCH_SCORE = 0.5
    # A track without a match for so many frames is forgotten [Q].
    cfg.TEST.QUASI_DENSE.MEMORY_FRAMES = 10
    # Frames whose detections without a track are remembered, to be told from tracks [Q].
    cfg.TEST.QUASI_DENSE.BACKDROP_FRAMES = 1
    # Weight of the latest embedding of a track, in [0, 1] [Q].
    cfg.TEST.QUASI_DENSE.MOMENTUM = 0.8
    # A detection below OBJECT_SCORE that resembles a track more than this is left out [Q].
    cfg.TEST.QUASI_DENSE.SURE_SCORE = 0.5
    # Box IoU above which a detection below OBJECT_SCORE repeats a better one [Q].
    cfg.TEST.QUASI_DENSE.BACKDROP_IOU = 0.3
    # The same of other detections, whatever the classes [Q].
    cfg.TEST.QUASI_DENSE.DUPLICATE_IOU = 0.7
    # Tracks keep to their class [Q].
    cfg.TEST.QUASI_DENSE.SAME_CLASS = True
    # Similarity of embeddings: "bisoftmax" [Q] or "cosine".
    cfg.TEST.QUASI_DENSE.METRIC = "bisoftmax"
    # An evaluation on BDD100K MOTS also writes and scores the detections without a track, which is
    # what tables call mAP (detection_ap/AP, by COCO's rule).
    cfg.TEST.QUASI_DENSE.DETECTIONS = False
    # RefineVIS (arXiv:2306.04774): "online": a frame reads the refined frames before it (Eq. 4);
    # "offline": the frames of a clip read one another. Association is online in both.
    cfg.TEST.REFINEVIS.MODE = "online"
    # W, frames that a frame reads, itself included, and the length of offline clips. 0: nothing is
    # refined, the frame-level results of Table 2. -1: MODEL.REFINEVIS.WINDOW.
    cfg.TEST.REFINEVIS.WINDOW = -1
    # A frame in which a track was missed gets its refined mask where the probability of the best
    # class is higher than this, in [0, 1]; the paper gives no value [D].
    cfg.TEST.REFINEVIS.RECOVER_SCORE = 0.1
    # Class scores of a track: those of frames in which it was "matched" or, missed ones included,
    # "alive"; the paper does not say which [D].
    cfg.TEST.REFINEVIS.SCORE_FRAMES = "matched"
