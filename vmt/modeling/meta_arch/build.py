"""``MODEL.META_ARCHITECTURE`` -> a network."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from vmt.modeling.meta_arch import mask_refiner as _mask_refiner
from vmt.modeling.meta_arch import vmt as _vmt
from vmt.modeling.meta_arch.check import check_model
from vmt.modeling.msts import decoder as _msts_decoder
from vmt.modeling.msts import encoder as _msts_encoder
from vmt.modeling.msts import separability as _msts_separability
from vmt.modeling.refiners import dense_band as _dense_band
from vmt.modeling.refiners.quadtree import refiner as _quadtree
from vmt.modeling.registry import META_ARCHITECTURES, lookup
from vmt.modeling.video_model import ClipModel, VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import checked_precision

#: Imported for what they register.
METHODS = (
    _vmt,
    _mask_refiner,
    _dense_band,
    _quadtree,
    _msts_encoder,
    _msts_decoder,
    _msts_separability,
)


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
    architecture = lookup(
        META_ARCHITECTURES, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE"
    )
    checked_precision(cfg.TEST.PRECISION, "TEST.PRECISION")
    check_model(cfg)
    network = architecture.from_config(cfg, label_space)
    assert isinstance(network, VideoModel), "a registered architecture must build one"
    return network


def build_model(cfg: CfgNode, label_space: LabelSpace) -> ClipModel:
    """``build_network`` for one that segments videos.

    Raises:
        ConfigError: see there; or the network does something else.
    """
    model = build_network(cfg, label_space)
    if not isinstance(model, ClipModel):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} finds no objects in videos; it "
            "sharpens given masks: vmt refine runs it, vmt train without DATASETS.TEST trains it."
        )
    return model
