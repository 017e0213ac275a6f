"""A config and a weight file -> a network that is ready to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from fvcore.common.config import CfgNode

from vmt.checkpoint.load import load_weights
from vmt.config.find import find_config
from vmt.config.node import load_config
from vmt.data.labels import resolve_label_space
from vmt.inference.pretrained import find_pretrained
from vmt.modeling.backbones.folding import fold_frozen_norms
from vmt.modeling.meta_arch.build import architecture, build_model, build_network
from vmt.modeling.video_model import Segmenter, VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils.device import resolve_device

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=VideoModel)


def model_from_config(
    cfg: CfgNode,
    build: Callable[[CfgNode, LabelSpace], Network],
    beside: Path | None = None,
    device: torch.device | None = None,
) -> Network:
    """Build, fill and place the network of a config, in evaluation mode.

    Args:
        cfg: the config.
        build: of ``vmt.modeling.meta_arch.build``; says which kind of network is needed.
        beside: see ``resolve_label_space``.
        device: where to; None: ``MODEL.DEVICE``.

    Raises:
        ConfigError: a key or name is wrong.
        CheckpointError: MODEL.WEIGHTS cannot be used.
    """
    if cfg.MODEL.WEIGHTS and cfg.MODEL.BACKBONE.PRETRAINED:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAINED = False
    space = cfg.MODEL.LABEL_SPACE if architecture(cfg).knows_classes else "object"
    model = build(cfg, resolve_label_space(space, beside))
    if cfg.MODEL.WEIGHTS:
        # NEW_PARAMETERS are for the start of a training; a network that is run has none.
        report = load_weights(model, cfg.MODEL.WEIGHTS)
        logger.info(report.text())
    else:
        logger.warning(
            "MODEL.WEIGHTS is empty: the network has random weights, its masks mean nothing."
        )
    fold_frozen_norms(model)
    return model.to(device or resolve_device(cfg.MODEL.DEVICE)).eval()


def load_model(
    name: str | Path | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> VideoModel:
    """Build a network: one that segments videos, or one that refines masks.

    Args:
        name: a config (path or name), a weight file with its config beside it, a folder with both,
            a name of ``vmt zoo``, or ``owner/name`` on the hub, see ``find_pretrained``; None for
            the default config (SeqFormer R50).
        weights: published or own weight file; None for those that come with the name, or that the
            config names.
        overrides: alternating ``KEY VALUE``.
        device: a torch device name or "auto"; None for what the config names.

    Returns:
        The network in evaluation mode.

    Example:
        ``model = vmt.load_model("hq_ytvis/vmt_R50_released", "vmt_r50.pth")``
    """
    if name is None:
        return _load(build_network, None, weights, overrides, device)
    where = find_pretrained(name, fetch_weights=weights is None)
    weights = where.weights if weights is None else weights
    return _load(build_network, where.config, weights, overrides, device)


def load_segmenter(
    config_file: str | Path | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Segmenter:
    """``load_model`` for one that segments videos; ConfigError for any other."""
    return _load(build_model, config_file, weights, overrides, device)


def _load(
    build: Callable[[CfgNode, LabelSpace], Network],
    config_file: str | Path | None,
    weights: str | Path | None,
    overrides: Sequence[str],
    device: str | None,
) -> Network:
    extra: list[str] = []
    if weights is not None:
        extra += ["MODEL.WEIGHTS", str(weights)]
    if device is not None:
        extra += ["MODEL.DEVICE", device]
    beside = find_config(config_file).parent if config_file is not None else None
    return model_from_config(load_config(config_file, [*overrides, *extra]), build, beside)
