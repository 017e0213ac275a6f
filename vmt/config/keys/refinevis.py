"""RefineVIS (arXiv:2306.04774); all values as the paper reads, [D] where it says nothing."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.REFINEVIS")
    # Network for frames: MaskDINO, or IDOL and MinVIS of Table 7; it has its own keys.
    cfg.MODEL.REFINEVIS.FRAME_MODEL = "MaskDINO"
    # Frames that refinement attends to, the current one included; 0: no refinement.
    cfg.MODEL.REFINEVIS.WINDOW = 10
    # Sizes of its one layer [D].
    cfg.MODEL.REFINEVIS.NUM_HEADS = 8
    cfg.MODEL.REFINEVIS.FFN_DIM = 2048
    # "pre": starts as the identity [D]; "post": norms behind the sums, as DETR.
    cfg.MODEL.REFINEVIS.NORM = "pre"
    # "input": time is added to the embeddings; "query_key": to queries and keys alone.
    cfg.MODEL.REFINEVIS.POSITION = "input"
    # In training a frame reads the refined embeddings of the frames before it ("recurrent", Eq. 4),
    # or all frames (of each WINDOW) read the embeddings of each other ("joint").
    cfg.MODEL.REFINEVIS.TRAIN_PASS = "recurrent"
    # Tracklets of a training clip: "tracker", the association itself with lower thresholds; "gt",
    # the queries that stand for the objects of the annotation.
    cfg.MODEL.REFINEVIS.TRAIN_TRACKLETS = "tracker"
    # What a query needs to be an object's: IoU with it, and probability of its class, which is also
    # the tracker's threshold of scores [D].
    cfg.MODEL.REFINEVIS.TRAIN_IOU = 0.3
    cfg.MODEL.REFINEVIS.TRAIN_SCORE = 0.05
    # Share of a tracklet's matches behind its first that refinement is not shown in training, so
    # that it learns to recover what was missed; 0, none, is the paper's.
    cfg.MODEL.REFINEVIS.TRAIN_GAPS = 0.0
    # Tracklets of a clip at most that are no object, for the class loss of refinement [D].
    cfg.MODEL.REFINEVIS.NEGATIVE_TRACKLETS = 20
    # Class that refinement is to see where a frame does not show a tracklet's object: "none", or
    # that of the "object" [D]; the mask is empty in both.
    cfg.MODEL.REFINEVIS.ABSENT_CLASS = "none"
    # Contrastive queries that are denoised across frames, for the frame models that have them.
    cfg.MODEL.REFINEVIS.ASSOCIATION_CDN = True
    cfg.MODEL.REFINEVIS.TEMPORAL_CDN = True
    # Weight of the contrastive loss of embeddings (Eq. 1), and of the squared error of cosines;
    # IDOL's code has 2 and 3.
    cfg.MODEL.REFINEVIS.CONTRASTIVE_WEIGHT = 1.0
    cfg.MODEL.REFINEVIS.COSINE_WEIGHT = 0.0
