"""Switches of a config that not every network can serve: one sentence before the training."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from vmt.data.catalog import has_boxes_only
from vmt.modeling.video_model import Segmenter, VideoModel
from vmt.utils.errors import ConfigError


def check_switches(cfg: CfgNode, model: VideoModel, processes: int) -> None:
    """Refuse what the network of a training cannot do.

    ``ENGINE.ACTIVATION_CHECKPOINTING`` and ``ENGINE.COMPILE`` look for stages themselves, see
    ``vmt.engine.parallel``.

    Args:
        cfg: the config.
        model: what it builds.
        processes: of the run.

    Raises:
        ConfigError: a switch has no meaning for the network or for another switch.
    """
    engine = cfg.ENGINE
    name = f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"
    if model.needs_coarse_masks and not cfg.INPUT.DEGRADE:
        raise ConfigError(
            f"INPUT.DEGRADE is empty, but {name} learns from masks that are made coarse; name "
            "kinds of `vmt degrade`, for instance [paper, halo]."
        )
    boxes = [reference for reference in cfg.DATASETS.TRAIN if has_boxes_only(reference)]
    if boxes and not model.learns_from_boxes:
        raise ConfigError(
            f"DATASETS.TRAIN: {boxes[0]} has boxes and no masks, and {name} would learn filled "
            "boxes as masks; name another data set."
        )
    if cfg.MODEL.ADVERSARY != "none" and not model.takes_adversary:
        raise ConfigError(
            f"MODEL.ADVERSARY {cfg.MODEL.ADVERSARY} judges the masks and features that a "
            f"network hands it in training, and {name} hands it none; set none."
        )
    if engine.OVERLAY_PERIOD and not isinstance(model, Segmenter):
        raise ConfigError(
            f"ENGINE.OVERLAY_PERIOD draws the objects that a network finds, and {name} finds "
            "none; set 0. tools/visualize_refinement.py draws refined masks."
        )
    if engine.PARALLEL != "fsdp" or processes == 1:
        return
    if not any(p.requires_grad for stage in model.stages() for p in stage.parameters()):
        raise ConfigError(
            f"ENGINE.PARALLEL fsdp spreads a network's stages, of which {name} trains none; use "
            "ddp."
        )
    if engine.PRECISION == "fp16":
        raise ConfigError("ENGINE.PARALLEL fsdp does not scale losses; use PRECISION bf16.")
    if engine.OVERLAY_PERIOD:
        raise ConfigError("ENGINE.OVERLAY_PERIOD needs the whole network in one process: ddp.")
