"""MS-STS VIS; all values [D] (docs/methods/msts.md)."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.MSTS")
    # A network with an optimiser of its own that is trained beside the model and judges it: a name
    # in the registry ADVERSARIES, or "none" [D].
    cfg.MODEL.ADVERSARY = "none"
    # Widths of its attention blocks: "lean" (64, as its published size suggests) or "full" (256).
    cfg.MODEL.MSTS.PRESET = "lean"
    cfg.MODEL.MSTS.NUM_HEADS = 8
    # How a level meets the next coarser one: as more tokens or as more channels.
    cfg.MODEL.MSTS.CONCAT = "token"
    # Attention over time inside levels alone, none between levels.
    cfg.MODEL.MSTS.INTRA_ONLY = False
    # Loss by which the model fools the discriminator: its weight, steps of a linear ramp from 0,
    # and whether its gradient reaches the encoder's maps directly or through the masks alone.
    cfg.MODEL.MSTS.ADV_WEIGHT = 0.1
    cfg.MODEL.MSTS.ADV_RAMP_STEPS = 1000
    cfg.MODEL.MSTS.ADV_THROUGH_FEATURES = True
    # The discriminator: its target for annotated masks, Adam, largest norm of its gradients.
    cfg.MODEL.MSTS.ADV_REAL_LABEL = 0.9
    cfg.MODEL.MSTS.ADV_LR = 1e-4
    cfg.MODEL.MSTS.ADV_BETAS = [0.5, 0.999]
    cfg.MODEL.MSTS.ADV_CLIP = 1.0
