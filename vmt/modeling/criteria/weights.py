"""Weights of losses, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fvcore.common.config import CfgNode
from torch import Tensor


def loss_weights(cfg: CfgNode) -> dict[str, float]:
    """Weights of ``MODEL.LOSS``; costs of a match have those of their losses."""
    loss = cfg.MODEL.LOSS
    return {
        "loss_ce": loss.CLASS_WEIGHT,
        "loss_mask": loss.MASK_WEIGHT,
        "loss_dice": loss.DICE_WEIGHT,
        "loss_bbox": loss.BOX_WEIGHT,
        "loss_giou": loss.GIOU_WEIGHT,
    }


class WeightedLosses:
    """A criterion whose losses have the weight of their kind, whatever follows in their names.

    Attributes:
        weights: by name without the suffixes of layers and parts.
    """

    weights: Mapping[str, float]

    def weight(self, name: str) -> float:
        """Weight of a loss, for instance that of "loss_ce" for "loss_ce_dn_3".

        Raises:
            KeyError: a name that this criterion does not give.
        """
        stem = name
        while stem not in self.weights:
            stem, _, suffix = stem.rpartition("_")
            if not suffix:
                raise KeyError(name)
        return self.weights[stem]

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses times their weights.

        Raises:
            KeyError: a name that this criterion does not give.
        """
        return {name: self.weight(name) * loss for name, loss in losses.items()}
