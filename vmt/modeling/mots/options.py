"""Sizes of the two-stage detector and of its embeddings, checked."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.utils.errors import ConfigError

#: Groups of the norms of the embedding head.
NORM_GROUPS = 32


@dataclass(frozen=True)
class DetectorOptions:
    """Two stages; see ``vmt.config.keys.mots``.

    Args:
        dim: channels of the pyramid, of the mask head and of the embedding head.
        fc_dim: width of the fully connected layers of the box head and of the embedding head.
        head_convs: convolutions of the mask head and of the embedding head.
        embed_dim: C_e, of an embedding.
        anchor_scale: side of an anchor in cells of its level.
        strides: of the backbone's maps that become levels; one more halves the last.
        proposals: per frame, that the second stage sees.
        rpn_samples: anchors per frame that the first stage learns from.
        box_samples: proposals per frame that the second stage learns from.
        score: detections have a class above it, in [0, 1].
        nms_iou: of two detections of one class that overlap more, the better stays.
        detections: most of a frame.

    Raises:
        ConfigError: a value with which no network can be built.
    """

    dim: int = 256
    fc_dim: int = 1024
    head_convs: int = 4
    embed_dim: int = 256
    anchor_scale: float = 8.0
    strides: tuple[int, ...] = (4, 8, 16, 32)
    proposals: int = 1000
    rpn_samples: int = 256
    box_samples: int = 512
    score: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        """Check."""
        for name in ("fc_dim", "head_convs", "embed_dim", "proposals", "detections"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("rpn_samples", "box_samples"):
            self._check(name, getattr(self, name) >= 4, "at least 4")
        for name in ("score", "nms_iou"):
            self._check(name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        self._check("anchor_scale", self.anchor_scale > 0, "a number above 0")
        known = self.strides in ((4, 8, 16, 32), (8, 16, 32))
        self._check("strides", known, "[4, 8, 16, 32] or [8, 16, 32]")
        divides = self.dim > 0 and self.dim % NORM_GROUPS == 0
        self._check("dim", divides, f"a multiple of {NORM_GROUPS}")

    def _check(self, name: str, works: bool, what: str) -> None:
        if not works:
            value = getattr(self, name)
            raise ConfigError(f"MODEL.MOTS.{name.upper()} is {value!r}; give {what}.")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DetectorOptions:
        """Read ``MODEL.MOTS``."""
        node = cfg.MODEL.MOTS
        values = {name: node[name.upper()] for name in cls.__dataclass_fields__}
        return cls(**values | {"strides": tuple(node.STRIDES)})
