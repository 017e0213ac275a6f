"""Switches of a config that not every network can serve: one sentence before the training."""

from __future__ import annotations

from fvcore.common.config import CfgNode
from torch import nn

from vmt.modeling.mask_refiner.prompt import TubeRefiner
from vmt.modeling.meta_arch.vmt import VideoMaskTransfiner
from vmt.utils.errors import ConfigError


def check_switches(cfg: CfgNode, model: nn.Module, processes: int) -> None:
    """Refuse what the network of a training cannot do.

    ``ENGINE.ACTIVATION_CHECKPOINTING`` and ``ENGINE.COMPILE`` look for layers themselves, see
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
    refines = isinstance(model, TubeRefiner)
    if refines and not cfg.INPUT.DEGRADE:
        raise ConfigError(
            f"INPUT.DEGRADE is empty, but {name} learns from masks that are made coarse; name "
            "kinds of `vmt degrade`, for instance [paper, halo]."
        )
    if engine.OVERLAY_PERIOD and not isinstance(model, VideoMaskTransfiner):
        raise ConfigError(
            f"ENGINE.OVERLAY_PERIOD draws the objects that a network finds, and {name} finds "
            "none; set 0. tools/visualize_refinement.py draws refined masks."
        )
    if engine.PARALLEL != "fsdp" or processes == 1:
        return
    if refines:
        raise ConfigError(
            f"ENGINE.PARALLEL fsdp spreads the layers of encoder and decoder, of which {name} "
            "trains none; use ddp."
        )
    if engine.PRECISION == "fp16":
        raise ConfigError("ENGINE.PARALLEL fsdp does not scale losses; use PRECISION bf16.")
    if engine.OVERLAY_PERIOD:
        raise ConfigError("ENGINE.OVERLAY_PERIOD needs the whole network in one process: ddp.")
