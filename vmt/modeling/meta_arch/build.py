"""``MODEL.META_ARCHITECTURE`` -> a network."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from vmt.modeling.meta_arch import vmt as _vmt
from vmt.modeling.msts import decoder as _msts_decoder
from vmt.modeling.msts import encoder as _msts_encoder
from vmt.modeling.msts import separability as _msts_separability
from vmt.modeling.refinement import dense_band as _dense_band
from vmt.modeling.refinement import quadtree_refiner as _quadtree_refiner
from vmt.modeling.registry import META_ARCHITECTURES, lookup
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError

#: Imported for what they register.
METHODS = (
    _vmt,
    _dense_band,
    _quadtree_refiner,
    _msts_encoder,
    _msts_decoder,
    _msts_separability,
)


def build_model(cfg: CfgNode, label_space: LabelSpace) -> _vmt.VideoMaskTransfiner:
    """Build the network that a config describes, with fresh weights, on the CPU.

    Args:
        cfg: see ``vmt.config.defaults``.
        label_space: what its classes are.

    Raises:
        ConfigError: an unknown name, or values that do not fit together.
    """
    architecture = lookup(
        META_ARCHITECTURES, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE"
    )
    precisions = _vmt.PRECISIONS
    if cfg.TEST.PRECISION not in precisions:
        raise ConfigError(
            f"TEST.PRECISION must be one of {', '.join(precisions)}, not {cfg.TEST.PRECISION!r}."
        )
    model = architecture.from_config(cfg, label_space)
    assert isinstance(model, _vmt.VideoMaskTransfiner), "a registered architecture must build one"
    return model
