"""``tools/self_correct.py``; DATASETS.TRAIN is the clean set."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "SELF_CORRECT")
    # Set whose masks are corrected, a name or my.json@images (as all sets of this section).
    cfg.SELF_CORRECT.COARSE = ""
    # Set with true masks, and the same videos with coarse ones (a set, or a JSON alone), for the
    # stop rule.
    cfg.SELF_CORRECT.VAL = ""
    cfg.SELF_CORRECT.VAL_COARSE = ""
    # True masks of COARSE, for studies that know them: scored, never trained on.
    cfg.SELF_CORRECT.TRUTH = ""
    # What an iteration corrects: "previous", the result of the one before [D]; or "original", the
    # coarse masks, anew, with the better network.
    cfg.SELF_CORRECT.INPUT = "previous"
    # Most iterations [P: 4], and gain in tube boundary AP, in points, below which to stop [D].
    cfg.SELF_CORRECT.ITERATIONS = 4
    cfg.SELF_CORRECT.MIN_GAIN = 0.2
    # Steps of iterations after the first; 0: SOLVER.MAX_STEPS.
    cfg.SELF_CORRECT.NEXT_STEPS = 0
    # Confidence above which a pixel takes its new label [P], and frames per window [D].
    cfg.SELF_CORRECT.ACCEPT = 0.65
    cfg.SELF_CORRECT.WINDOW = 8
