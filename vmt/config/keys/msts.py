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
    # Loss by which the model fools the discriminator: its weight, steps of a linear ramp from 0.
    cfg.MODEL.MSTS.ADV_WEIGHT = 0.1
    cfg.MODEL.MSTS.ADV_RAMP_STEPS = 1000
