"""SeqFormer: its sizes, losses and matching; all values [S] where nothing else is said."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.SEQFORMER", "MODEL.LOSS")
    cfg.MODEL.SEQFORMER.HIDDEN_DIM = 256
    cfg.MODEL.SEQFORMER.NUM_HEADS = 8
    cfg.MODEL.SEQFORMER.FFN_DIM = 1024
    cfg.MODEL.SEQFORMER.DROPOUT = 0.1
    cfg.MODEL.SEQFORMER.ENCODER_LAYERS = 6
    cfg.MODEL.SEQFORMER.DECODER_LAYERS = 6
    cfg.MODEL.SEQFORMER.NUM_POINTS = 4
    cfg.MODEL.SEQFORMER.NUM_QUERIES = 300
    # What methods add: beside the attention of every encoder layer (registry ENCODER_ADAPTERS),
    # and between the frames of every box query (registry DECODER_ADAPTERS). "none": SeqFormer [D].
    cfg.MODEL.SEQFORMER.ENCODER_ADAPTER = "none"
    cfg.MODEL.SEQFORMER.DECODER_ADAPTER = "none"
    # Of classes and boxes these are also the costs by which queries are matched.
    cfg.MODEL.LOSS.CLASS_WEIGHT = 2.0
    cfg.MODEL.LOSS.BOX_WEIGHT = 5.0
    cfg.MODEL.LOSS.GIOU_WEIGHT = 2.0
    cfg.MODEL.LOSS.MASK_WEIGHT = 2.0
    cfg.MODEL.LOSS.DICE_WEIGHT = 5.0
    cfg.MODEL.LOSS.FOCAL_ALPHA = 0.25
    cfg.MODEL.LOSS.FOCAL_GAMMA = 2.0
    # Losses on the decoder layers before the last.
    cfg.MODEL.LOSS.DEEP_SUPERVISION = True
