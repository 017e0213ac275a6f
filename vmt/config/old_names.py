"""Names that configs had once, and what to write in their place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_ALWAYS = "is no key any more, what it chose by default always holds"
_QUADTREE = "docs/methods/vmt.md says why"

#: Key -> what became of it, the end of a sentence.
OLD_KEYS = {
    "TEST.CROP_TO_INPUT": "is part of COMPAT: False is released, True is none",
    "INPUT.PSEUDO_CLIP": "is part of COMPAT: release is released, native is none",
    "INPUT.KEEP_INVISIBLE": "is part of COMPAT: True is released, False is none",
    "MODEL.MATCHER.BOX_NORM": f"{_ALWAYS}: l2",
    "MODEL.MATCHER.MASK_ABSENT": f"{_ALWAYS}: absent frames count",
    "DATALOADER.PREFETCH": f"{_ALWAYS}: 2",
    "DATALOADER.TIMEOUT": f"{_ALWAYS}: 300 seconds",
    "DATALOADER.MAX_REDRAWS": f"{_ALWAYS}: 100",
    "ENGINE.TIMEOUT_MINUTES": f"{_ALWAYS}: 30",
    "TEST.JOBS": f"{_ALWAYS}: 1; vmt eval --jobs scores with more",
    "MODEL.AUXILIARY": "is called MODEL.ADVERSARY",
    "MODEL.SEQFORMER.ENCODER_BRANCH": "is called MODEL.SEQFORMER.ENCODER_ADAPTER",
    "MODEL.SEQFORMER.BOX_MIXER": "is called MODEL.SEQFORMER.DECODER_ADAPTER",
    "MODEL.MSTS.NUM_HEADS": f"{_ALWAYS}: 8",
    "MODEL.MSTS.CONCAT": f"{_ALWAYS}: token",
    "MODEL.MSTS.INTRA_ONLY": f"{_ALWAYS}: levels attend to each other too",
    "MODEL.MSTS.ADV_THROUGH_FEATURES": f"{_ALWAYS}: through the encoder's maps too",
    "MODEL.MSTS.ADV_REAL_LABEL": f"{_ALWAYS}: 0.9",
    "MODEL.MSTS.ADV_LR": f"{_ALWAYS}: 1e-4",
    "MODEL.MSTS.ADV_BETAS": f"{_ALWAYS}: 0.5 and 0.999",
    "MODEL.MSTS.ADV_CLIP": f"{_ALWAYS}: 1.0",
    "MODEL.PIXEL_MEAN": f"{_ALWAYS}: ImageNet's",
    "MODEL.PIXEL_STD": f"{_ALWAYS}: ImageNet's",
    "MODEL.BACKBONE.DROP_PATH": f"{_ALWAYS}: 0.3",
    "MODEL.SEQFORMER.NUM_LEVELS": f"{_ALWAYS}: 4",
    "MODEL.SEQFORMER.MASK_CHANNELS": f"{_ALWAYS}: 8",
    "SOLVER.GAMMA": f"{_ALWAYS}: 0.1",
    "SOLVER.WARMUP_FACTOR": f"{_ALWAYS}: 0.001",
    "DATALOADER.SEED": "is ENGINE.SEED, which seeds the data too",
    "MODEL.MATCHER.CLASS_COST": "is MODEL.LOSS.CLASS_WEIGHT, which weighs the match too",
    "MODEL.MATCHER.BOX_COST": "is MODEL.LOSS.BOX_WEIGHT, which weighs the match too",
    "MODEL.MATCHER.GIOU_COST": "is MODEL.LOSS.GIOU_WEIGHT, which weighs the match too",
    "MODEL.LOSS.INC_DICE_WEIGHT": "is MODEL.LOSS.INC_WEIGHT, of both losses of the detector",
    "MODEL.LOSS.REFINE_NODE_WEIGHT": "is called MODEL.LOSS.REFINE_STAGE_WEIGHT",
    "MODEL.LOSS.REFINE_STAGE2_WEIGHT": "is called MODEL.LOSS.REFINE_STAGE_WEIGHT",
    "MODEL.MASK_REFINER.TRAIN_TRACKLETS": "is MODEL.REFINER.TRAIN_TRACKLETS",
    "MODEL.REFINER.BOX_MASK": f"{_ALWAYS}: boxes wrap as in the released code",
    "MODEL.REFINER.REGION_RULE": "is a value of MODEL.REFINER.REGION: incoherent (for residue) "
    "or mixed",
    "MODEL.REFINER.REGION_CLOSED": f"{_ALWAYS}: cells above a marked one are marked, {_QUADTREE}",
    "MODEL.REFINER.INC_KERNEL": f"{_ALWAYS}: the paper's 3x3 layers",
    "MODEL.REFINER.RGB_KERNELS": f"{_ALWAYS}: the paper's three 3x3 layers",
    "MODEL.REFINER.INC_THRESHOLDS": f"{_ALWAYS}: 0.5 at every level",
    "MODEL.REFINER.PROPAGATION": f"{_ALWAYS}: bilinear",
    "MODEL.REFINER.TRAIN_NODES": f"{_ALWAYS}: union, detected and annotated nodes",
    **{
        f"SELF_CORRECT.{name.replace('-', '_').upper()}": f"is --{name} of tools/self_correct.py"
        for name in (
            *("coarse", "val", "val-coarse", "truth", "input", "iterations", "min-gain"),
            *("next-steps", "accept", "window"),
        )
    },
    "MODEL.MASK_REFINER.QUERY_SOURCE": "is chosen by MODEL.META_ARCHITECTURE: MaskRefiner (for "
    "mask_pool) or QueryMaskRefiner (for detector)",
    "MODEL.MASK_REFINER.PROMPT_LEVELS": f"{_ALWAYS}: all levels in MaskRefiner, the coarsest in "
    "QueryMaskRefiner",
    "MODEL.MASK_REFINER.BAND_CELLS": f"{_ALWAYS}: 1",
    "MODEL.MASK_REFINER.MARGIN": f"{_ALWAYS}: 0.1",
    "MODEL.MASK_REFINER.MIN_MARGIN_PX": f"{_ALWAYS}: 24",
}


def what_became_of(names: Iterable[str]) -> str | None:
    """One sentence about those of some keys that are old names; None when none is.

    Args:
        names: of keys, for instance all of a file.
    """
    old = [name for name in names if name in OLD_KEYS]
    if not old:
        return None
    rest = f" Other old names: {', '.join(old[1:])}." if old[1:] else ""
    return f"{old[0]} {OLD_KEYS[old[0]]}; change or delete it.{rest}"


def new_name(path: Path) -> Path | None:
    """What a YAML of an old name is called; None when it never had another one."""
    name = re.sub(r"vmt_release_([A-Za-z0-9]+)", r"vmt_\1_released", path.name)
    name = re.sub(r"(?i)(vmt[_-])release\.", r"\1released.", name)
    return path.with_name(name) if name != path.name and path.with_name(name).is_file() else None
