"""The ``quadtree`` refiner (docs/methods/vmt.md)."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.REFINER", "MODEL.LOSS")
    # From here on for "quadtree" (docs/methods/vmt.md). Nodes of all frames of a tracklet form one
    # sequence (quadtree sequence grouping); False: each frame alone [P, Table 1].
    cfg.MODEL.REFINER.QSG = True
    # Instance guidance after every node attention layer [P].
    cfg.MODEL.REFINER.IGL = True
    # What the detector learns to mark: "incoherent" or "boundary" cells [P, Table 2].
    cfg.MODEL.REFINER.REGION = "incoherent"
    # "residue" (routine of the released code) or "mixed" (definition of Mask Transfiner):
    # docs/reference/released_code.md#region.
    cfg.MODEL.REFINER.REGION_RULE = "residue"
    # A cell above a marked one is marked too, so that the tree can reach it [D].
    cfg.MODEL.REFINER.REGION_CLOSED = True
    # Weights of the detector: from the "video_query", from one "frame_query" per frame, or fixed
    # ("fcn") [P, Table 2].
    cfg.MODEL.REFINER.DETECTOR = "video_query"
    # Size of its kernels: 3 [P], or 1 [R], which published files initialise.
    cfg.MODEL.REFINER.INC_KERNEL = 3
    # Scores from which a cell of H/8, H/4, H/2 is a node [D].
    cfg.MODEL.REFINER.INC_THRESHOLDS = [0.5, 0.5, 0.5]
    # Sizes of the three convolutions on the image: [3, 3, 3] [P], [3, 1, 1] [R].
    cfg.MODEL.REFINER.RGB_KERNELS = [3, 3, 3]
    # How a node's value reaches the finer cells below it: "bilinear" or "nearest" [D].
    cfg.MODEL.REFINER.PROPAGATION = "bilinear"
    # Nodes in training: "detected", "truth" (the annotation's region) or "union" [D].
    cfg.MODEL.REFINER.TRAIN_NODES = "union"
    # Most nodes in training, at random: per tracklet, level and frame; per tracklet. Most tracklets
    # per clip. 0: no limit [D].
    cfg.MODEL.REFINER.TRAIN_FRAME_POINTS = 300
    cfg.MODEL.REFINER.TRAIN_POINTS = 4000
    cfg.MODEL.REFINER.TRAIN_TRACKLETS = 10
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
    # Quadtree [D]: L1 of node probabilities; BCE and dice of the detector, mean of its levels.
    cfg.MODEL.LOSS.REFINE_NODE_WEIGHT = 2.0
    cfg.MODEL.LOSS.INC_WEIGHT = 1.0
    cfg.MODEL.LOSS.INC_DICE_WEIGHT = 1.0
