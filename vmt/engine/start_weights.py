"""Where a training starts from: weights, ImageNet's backbone, or random on purpose."""

from __future__ import annotations

import logging

from fvcore.common.config import CfgNode
from torch import nn

from vmt.checkpoint.load import load_weights
from vmt.checkpoint.zoo import ZOO
from vmt.modeling.backbones.base import FROZEN_NORMS
from vmt.modeling.meta_arch.build import architecture
from vmt.modeling.video_model import ClipModel
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)


def _backbone(cfg: CfgNode) -> str:
    """What the names of the backbone's parameters start with."""
    return f"{architecture(cfg).backbone_path}."


def pretrained_backbone(cfg: CfgNode) -> bool:
    """Whether ImageNet weights are fetched: not where a weight file brings the backbone."""
    brought = cfg.MODEL.WEIGHTS and not _declared_new(cfg, _backbone(cfg))
    return bool(cfg.MODEL.BACKBONE.PRETRAINED and not brought)


def start_training(cfg: CfgNode, model: nn.Module) -> None:
    """Fill a network with what its training starts from, and say what that is.

    Args:
        cfg: ``MODEL.WEIGHTS``, ``BACKBONE.PRETRAINED`` and ``NEW_PARAMETERS`` say it.
        model: changed in place; what will not be trained is frozen already.

    Raises:
        ConfigError: something would stay random for ever, or random although the config expects
            weights.
        CheckpointError: the weights do not fit.
    """
    if not cfg.MODEL.WEIGHTS:
        check_random_start(cfg, model)
        return
    report = load_weights(model, cfg.MODEL.WEIGHTS, cfg.MODEL.NEW_PARAMETERS, new_classes=True)
    logger.info(report.text())
    if report.classes is not None and report.classes.new:
        logger.warning("%s: %s", report.source, report.classes.text())
    if any(name.startswith(_backbone(cfg)) for name in report.new) and not pretrained_backbone(cfg):
        logger.warning("%s: has no backbone for this network; it starts random.", report.source)


def check_random_start(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse a training without weights that could not learn, unless the config says it is meant.

    Frozen norms scale by random statistics for ever, and frozen parameters stay random; a config
    whose ``NEW_PARAMETERS`` name other parts than the backbone expects a backbone from a file.

    Raises:
        ConfigError: naming what would be random, and where to get weights.
    """
    fixed = [f"{name}." for name, part in model.named_modules() if isinstance(part, FROZEN_NORMS)]
    fixed += [name for name, value in model.named_parameters() if not value.requires_grad]
    fixed = [name for name in fixed if not _declared_new(cfg, name)]
    from_imagenet = cfg.MODEL.BACKBONE.PRETRAINED
    if from_imagenet:
        fixed = [name for name in fixed if not name.startswith(_backbone(cfg))]
    awaited = bool(cfg.MODEL.NEW_PARAMETERS) and not _declared_new(cfg, _backbone(cfg))
    if not fixed and (from_imagenet or not awaited):
        return
    what = f"{fixed[0]} and others are frozen" if fixed else "this config trains from weights"
    others = [_where(cfg, model)]
    if not from_imagenet:
        others.append("take ImageNet's backbone with MODEL.BACKBONE.PRETRAINED True")
    backbone = _backbone(cfg)
    roots = (backbone if n.startswith(backbone) else f"{n.split('.')[0]}." for n in fixed)
    parts = list(dict.fromkeys(roots)) or [backbone]
    raise ConfigError(
        f"MODEL.WEIGHTS is empty, but {what}: random, they learn nothing. {'; '.join(others)}; or "
        f'say that random is meant: MODEL.NEW_PARAMETERS "{parts}".'
    )


def _declared_new(cfg: CfgNode, name: str) -> bool:
    return name.startswith(tuple(cfg.MODEL.NEW_PARAMETERS))


def _where(cfg: CfgNode, model: nn.Module) -> str:
    """Which published file starts it, or the frame model inside it."""
    rows = [file for file in ZOO.values() if file.starts == cfg.MODEL.BACKBONE.NAME]
    name = type(getattr(model, "frame_model", model)).__name__
    own = [file for file in rows if file.architecture == name]
    known = own or [r for r in rows if not r.architecture and isinstance(model, ClipModel)]
    if not known:
        return "Give --weights FILE (vmt zoo lists published ones)"
    name, file, method = known[0].name, known[0].file_name, known[0].about.split(",")[0]
    return f"Fetch {method}'s (vmt zoo --download {name}) and give --weights weights/{file}"
