"""Sizes of Mask2Former, checked."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.layers.projection import NORM_GROUPS
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class Mask2FormerOptions:
    """Sizes; see ``vmt.config.keys.mask2former``.

    Args:
        dim: C.
        num_heads: M.
        num_points: K, of the encoder.
        encoder_layers: at least 1.
        encoder_ffn_dim: width of the encoder's feed-forward parts.
        decoder_layers: at least 1.
        decoder_ffn_dim: width of the decoder's feed-forward parts.
        dropout: in training.
        mask_dim: channels of the pixel map.
        num_queries: Q.

    Raises:
        ConfigError: a value with which no network can be built.
    """

    dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    dropout: float = 0.0
    mask_dim: int = 256
    num_queries: int = 100

    def __post_init__(self) -> None:
        """Check."""
        parts = NORM_GROUPS, self.num_heads, 4
        sizes = [name for name in self.__dataclass_fields__ if name not in ("dim", "dropout")]
        rules = (
            *((name.upper(), getattr(self, name), getattr(self, name) >= 1, "at least 1")
              for name in sizes),
            ("DIM", self.dim,
             self.dim > 0 and not any(self.dim % part for part in parts if part > 0),
             f"a multiple of {NORM_GROUPS}, of 4 and of NUM_HEADS, {self.num_heads}"),
            ("DROPOUT", self.dropout, 0 <= self.dropout < 1, "a probability in [0, 1)"),
        )  # fmt: skip
        for key, value, works, what in rules:
            if not works:
                raise ConfigError(f"MODEL.MASK2FORMER.{key} is {value!r}; give {what}.")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Mask2FormerOptions:
        """Read ``MODEL.MASK2FORMER``.

        Raises:
            ConfigError: a value with which no network can be built.
        """
        node = cfg.MODEL.MASK2FORMER
        return cls(**{name: node[name.upper()] for name in cls.__dataclass_fields__})
