"""``MODEL.META_ARCHITECTURE`` -> a network."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from fvcore.common.config import CfgNode

from vmt.modeling import meta_arch
from vmt.modeling.meta_arch.check import check_model
from vmt.modeling.meta_arch.frame_vmt import add_refiner
from vmt.modeling.registry import META_ARCHITECTURES, lookup
from vmt.modeling.video_model import FrameModel, MaskRefinerModel, Segmenter, VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import checked_precision


@functools.cache
def register_methods() -> None:
    """Import the files of this folder, each of which registers a method."""
    for module in pkgutil.iter_modules(meta_arch.__path__, f"{meta_arch.__name__}."):
        importlib.import_module(module.name)


def architecture(cfg: CfgNode) -> type[VideoModel]:
    """The class that ``MODEL.META_ARCHITECTURE`` names.

    Raises:
        ConfigError: no such name.
    """
    register_methods()
    name = cfg.MODEL.META_ARCHITECTURE
    entry: type[VideoModel] = lookup(META_ARCHITECTURES, name, "MODEL.META_ARCHITECTURE")
    return entry


def build_network(cfg: CfgNode, label_space: LabelSpace) -> VideoModel:
    """Build what ``MODEL.META_ARCHITECTURE`` names, with fresh weights, on the CPU.

    Args:
        cfg: see ``vmt.config.keys``.
        label_space: what its classes are.

    Returns:
        A network that gives weighted losses in training mode.

    Raises:
        ConfigError: an unknown name, or values that do not fit together.
    """
    network = architecture(cfg)
    checked_precision(cfg.TEST.PRECISION, "TEST.PRECISION")
    check_model(cfg)
    model = network.from_config(cfg, label_space)
    wanted = cfg.MODEL.REFINER.NAME != "none"
    if wanted and isinstance(model, FrameModel) and model.refiner is None:
        add_refiner(model, cfg)
    return model


def build_model(cfg: CfgNode, label_space: LabelSpace) -> Segmenter:
    """``build_network`` for one that segments videos.

    Raises:
        ConfigError: as there; or the network does something else.
    """
    model = build_network(cfg, label_space)
    if not isinstance(model, Segmenter):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} finds no objects in videos; it "
            "sharpens given masks: vmt refine runs it, vmt train without DATASETS.TEST trains it."
        )
    return model


def build_mask_refiner(cfg: CfgNode, label_space: LabelSpace) -> MaskRefinerModel:
    """``build_network`` for one that sharpens given masks.

    Raises:
        ConfigError: as there; or the network does something else.
    """
    model = build_network(cfg, label_space)
    if not isinstance(model, MaskRefinerModel):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, but a mask refiner is "
            "needed; see configs/refine/."
        )
    return model
