"""QDTrack with masks; [Q]: arXiv:2006.06664 and its code, [T]: torchvision's Mask R-CNN."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MOTS")
    # Channels of the pyramid and of the convolutions of mask and embedding head [Q].
    cfg.MODEL.MOTS.DIM = 256
    # Width of the fully connected layers of box and embedding head [Q].
    cfg.MODEL.MOTS.FC_DIM = 1024
    # Convolutions of mask and embedding head [Q].
    cfg.MODEL.MOTS.HEAD_CONVS = 4
    # Channels of an embedding [Q].
    cfg.MODEL.MOTS.EMBED_DIM = 256
    # Side of an anchor in cells of its level [Q].
    cfg.MODEL.MOTS.ANCHOR_SCALE = 8.0
    # Strides of the backbone's maps that become levels of the pyramid, and of one more that halves
    # the last; [8, 16, 32] saves the costliest level, and objects of a few pixels are lost [D].
    cfg.MODEL.MOTS.STRIDES = [4, 8, 16, 32]
    # Proposals per frame [Q]; anchors, and proposals, per frame that training draws [T].
    cfg.MODEL.MOTS.PROPOSALS = 1000
    cfg.MODEL.MOTS.RPN_SAMPLES = 256
    cfg.MODEL.MOTS.BOX_SAMPLES = 512
    # Detections have a class above the score, in [0, 1]; of two of a class that overlap more the
    # better stays; most per frame [T].
    cfg.MODEL.MOTS.SCORE = 0.05
    cfg.MODEL.MOTS.NMS_IOU = 0.5
    cfg.MODEL.MOTS.DETECTIONS = 100
    # Regions that embeddings learn from: of objects in the key frame; of objects, half of them, and
    # others in a reference frame [Q].
    cfg.MODEL.MOTS.KEY_REGIONS = 128
    cfg.MODEL.MOTS.REFERENCE_REGIONS = 256
    # Overlap with an object from which a region shows it, and below which it shows none [Q].
    cfg.MODEL.MOTS.POSITIVE_IOU = 0.7
    cfg.MODEL.MOTS.NEGATIVE_IOU = 0.3
    # Weights of the contrastive and of the auxiliary loss of embeddings [Q].
    cfg.MODEL.MOTS.CONTRASTIVE_WEIGHT = 0.25
    cfg.MODEL.MOTS.AUXILIARY_WEIGHT = 1.0
    # The auxiliary loss as in the "paper", or "released": with hard negatives, a margin, and
    # cosines below 0 as 0 (docs/methods/mots.md) [Q].
    cfg.MODEL.MOTS.AUXILIARY = "paper"
    # Detector and mask head learn from the reference frames too, not from the key frame alone [D].
    cfg.MODEL.MOTS.ALL_FRAMES = False
