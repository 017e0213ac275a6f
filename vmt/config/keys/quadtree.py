"""The ``quadtree`` refiner (docs/methods/vmt.md)."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections

_OURS = {
    "WINDOW": 4,
    "CONTEXT": 3,
    "REACH_PX": 4.0,
    "SHARED_HEAD": True,
    "OFFSET_UNIT_PX": 64.0,
    "TRAIN_MAPS": True,
}
#: Key -> its value -> keys that it gives a value; see ``vmt.config.node``. {}: the defaults.
PRESETS = {
    "MODEL.REFINER.PRESET": {
        "paper": {},
        "ours": {f"MODEL.REFINER.{key}": value for key, value in _OURS.items()},
    }
}


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.REFINER", "MODEL.LOSS")
    # Nodes of all frames of a tracklet form one sequence (quadtree sequence grouping); False: each
    # frame alone [P, Table 1].
    cfg.MODEL.REFINER.QSG = True
    # Instance guidance after every node attention layer [P].
    cfg.MODEL.REFINER.IGL = True
    # What the detector learns to mark: "incoherent" cells by the routine of the released code,
    # "mixed" ones, Mask Transfiner's definition (docs/reference/released_code.md#region), or those
    # of the "boundary" [P, Table 2].
    cfg.MODEL.REFINER.REGION = "incoherent"
    # Weights of the detector: from the "video_query", from one "frame_query" per frame, or fixed
    # ("fcn") [P, Table 2].
    cfg.MODEL.REFINER.DETECTOR = "video_query"
    # Most nodes in training, at random: per tracklet, level and frame; per tracklet. Most tracklets
    # per clip. 0: no limit [D].
    cfg.MODEL.REFINER.TRAIN_FRAME_POINTS = 300
    cfg.MODEL.REFINER.TRAIN_POINTS = 4000
    cfg.MODEL.REFINER.TRAIN_TRACKLETS = 10
    # Values of the six keys below: "paper", or "ours", which learns sharper masks sooner
    # (docs/methods/vmt.md). Beside it each may have another value.
    cfg.MODEL.REFINER.PRESET = "paper"
    # Nodes attend within squares of so many stride-8 cells, over all frames [P: 0, to all].
    cfg.MODEL.REFINER.WINDOW = 0
    # Tokens are made of squares of so many cells per side around their node: 1, 3, 5 [P: silent].
    cfg.MODEL.REFINER.CONTEXT = 1
    # Attention falls with the distance of nodes on the object: reach of the first head at the
    # start, in pixels; further heads reach twice as far each. 0: it does not [P: silent].
    cfg.MODEL.REFINER.REACH_PX = 0.0
    # Layers that all tracklets share add to what the dynamic pixel decoder says of a node [D].
    cfg.MODEL.REFINER.SHARED_HEAD = False
    # Both refiners: pixels that count as 1 in the offsets to the instance's centre [R: 1].
    cfg.MODEL.REFINER.OFFSET_UNIT_PX = 1.0
    # Both refiners: let gradients reach the backbone's stride-4 and stride-2 maps [R: False].
    cfg.MODEL.REFINER.TRAIN_MAPS = False
    # Of the detector: cross entropy and dice, each the mean of its levels [D].
    cfg.MODEL.LOSS.INC_WEIGHT = 1.0
