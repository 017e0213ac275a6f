"""Sizes of CondInst, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from vmt.layers.projection import NORM_GROUPS
from vmt.modeling.backbones.neck import STRIDES
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class CondInstOptions:
    """Sizes; see ``vmt.config.keys.condinst``.

    Args:
        dim: C.
        num_heads: M.
        num_points: K.
        num_levels: L.
        encoder_layers: at least 1.
        decoder_layers: at least 1.
        ffn_dim: width of the feed-forward parts.
        dropout: in training.
        num_queries: Q.
        mask_channels: of the map that the dynamic layers read.

    Raises:
        ConfigError: a value with which no network can be built.
    """

    dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    num_levels: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn_dim: int = 1024
    dropout: float = 0.1
    num_queries: int = 300
    mask_channels: int = 8

    def __post_init__(self) -> None:
        """Check."""
        parts = f"a multiple of {NORM_GROUPS} and of NUM_HEADS, {self.num_heads}"
        least = {name: 1 for name in vars(self) if name not in ("dim", "dropout")}
        least["num_levels"] = len(STRIDES)
        rules = [
            (name, getattr(self, name), getattr(self, name) >= low, f"at least {low}")
            for name, low in least.items()
        ]
        rules.append(("dropout", self.dropout, 0 <= self.dropout < 1, "a probability in [0, 1)"))
        for name, value, works, what in rules:
            _check(name, value, works, what)
        divides = self.dim > 0 and not self.dim % NORM_GROUPS and not self.dim % self.num_heads
        _check("dim", self.dim, divides, parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CondInstOptions:
        """Read ``MODEL.CONDINST``."""
        return cls(**{name.lower(): value for name, value in cfg.MODEL.CONDINST.items()})

    @property
    def attention(self) -> dict[str, Any]:
        """What encoder and decoder layers share."""
        names = ("dim", "num_levels", "num_heads", "num_points", "ffn_dim", "dropout")
        return {name: getattr(self, name) for name in names}


def _check(name: str, value: float, works: bool, what: str) -> None:
    if not works:
        raise ConfigError(f"MODEL.CONDINST.{name.upper()} is {value!r}; give {what}.")
