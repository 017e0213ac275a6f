"""Sizes and switches of MaskDINO, checked."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.layers.projection import NORM_GROUPS
from vmt.utils.errors import ConfigError

#: Order of the levels in the encoder, fine to coarse or coarse to fine; the decoder's is the other.
LEVEL_ORDERS = ("low2high", "high2low")
#: How queries get their first anchor, see ``proposals.first_anchors``.
BOX_INITS = ("regressed", "mask", "bitmask", "mask2box")
#: Backbone maps that can be levels of the encoder, in input pixels per cell.
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class MaskDINOOptions:
    """Sizes and switches; see ``vmt.config.keys.maskdino``.

    Args:
        dim: C.
        num_heads: M.
        num_points: K.
        encoder_layers: at least 1.
        encoder_ffn_dim: width of the encoder's feed-forward parts.
        decoder_layers: at least 1.
        decoder_ffn_dim: width of the decoder's feed-forward parts.
        dropout: in training.
        mask_dim: channels of the pixel map.
        num_queries: Q.
        strides: of the backbone maps that become levels, ascending, down to 32.
        extra_levels: levels that halve the coarsest again.
        level_order: one of ``LEVEL_ORDERS``.
        box_init: one of ``BOX_INITS``.

    Raises:
        ConfigError: a value with which no network can be built.
    """

    dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    dropout: float = 0.0
    mask_dim: int = 256
    num_queries: int = 300
    strides: tuple[int, ...] = (8, 16, 32)
    extra_levels: int = 1
    level_order: str = "low2high"
    box_init: str = "mask"

    def __post_init__(self) -> None:
        """Check."""
        parts = NORM_GROUPS, self.num_heads, 4
        rules = (
            ("DIM", self.dim, self.dim > 0 and not any(self.dim % part for part in parts),
             f"a multiple of {NORM_GROUPS}, of 4 and of NUM_HEADS, {self.num_heads}"),
            *((name.upper(), value, value >= 1, "at least 1") for name, value in (
                ("num_points", self.num_points), ("encoder_layers", self.encoder_layers),
                ("encoder_ffn_dim", self.encoder_ffn_dim), ("mask_dim", self.mask_dim),
                ("decoder_layers", self.decoder_layers), ("num_queries", self.num_queries),
                ("decoder_ffn_dim", self.decoder_ffn_dim))),
            ("DROPOUT", self.dropout, 0 <= self.dropout < 1, "a probability in [0, 1)"),
            ("STRIDES", list(self.strides), self.strides in (STRIDES, STRIDES[1:], STRIDES[2:]),
             "some of 4, 8, 16, 32, the last two at least"),
            ("EXTRA_LEVELS", self.extra_levels, self.extra_levels >= 0, "0 or more"),
            ("LEVEL_ORDER", self.level_order, self.level_order in LEVEL_ORDERS,
             f"one of {', '.join(LEVEL_ORDERS)}"),
            ("BOX_INIT", self.box_init, self.box_init in BOX_INITS,
             f"one of {', '.join(BOX_INITS)}"),
        )  # fmt: skip
        for key, value, works, what in rules:
            if not works:
                raise ConfigError(f"MODEL.MASKDINO.{key} is {value!r}; give {what}.")

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.strides) + self.extra_levels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskDINOOptions:
        """Read ``MODEL.MASKDINO``.

        Raises:
            ConfigError: a value with which no network can be built.
        """
        node = cfg.MODEL.MASKDINO
        values = {name: node[name.upper()] for name in cls.__dataclass_fields__}
        return cls(**values | {"strides": tuple(node.STRIDES)})
