"""Quasi-dense losses: embeddings of regions of two frames, many positives and negatives each.

Source: QDTrack, arXiv:2006.06664, section 3.2, and its code for reductions and hard negatives.
Letters: A regions of the key frame that show an object; R regions of the reference frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.criteria.contrastive import contrastive_loss
from vmt.modeling.criteria.losses import full_precision
from vmt.utils.errors import ConfigError

#: Pairs of different objects per pair of the same one in the auxiliary loss.
NEGATIVES = 3
#: See ``auxiliary_loss``.
RELEASED_MARGIN = 0.3


@dataclass(frozen=True)
class EmbeddingPair:
    """Regions of a key frame and of a reference frame.

    Args:
        key: (A, C_e) embeddings.
        key_track: (A,) int64, which tracklet each shows.
        reference: (R, C_e).
        reference_track: (R,) int64; -1: none.
    """

    key: Tensor
    key_track: Tensor
    reference: Tensor
    reference_track: Tensor


@dataclass(frozen=True)
class QuasiDenseCriterion:
    """``loss_track`` and ``loss_track_aux``, weighted; means over the pairs of frames.

    Args:
        contrastive_weight: of the contrastive loss.
        auxiliary_weight: of the auxiliary loss.
        released: the auxiliary loss as in the published code, see ``auxiliary_loss``.

    Raises:
        ConfigError: a weight below 0.
    """

    contrastive_weight: float = 0.25
    auxiliary_weight: float = 1.0
    released: bool = False

    def __post_init__(self) -> None:
        for name in ("contrastive_weight", "auxiliary_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"MODEL.MOTS.{name.upper()} is {getattr(self, name)}; give 0 or more."
                )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> QuasiDenseCriterion:
        """Read ``MODEL.MOTS``.

        Raises:
            ConfigError: an unknown word, or a weight below 0.
        """
        node = cfg.MODEL.MOTS
        if node.AUXILIARY not in ("paper", "released"):
            raise ConfigError(
                f"MODEL.MOTS.AUXILIARY is {node.AUXILIARY!r}; choose paper or released."
            )
        return cls(node.CONTRASTIVE_WEIGHT, node.AUXILIARY_WEIGHT, node.AUXILIARY == "released")

    def __call__(self, pairs: Sequence[EmbeddingPair]) -> dict[str, Tensor]:
        """Measure at least one pair of frames; one without a common object costs 0."""
        contrastive, auxiliary = [], []
        for pair in pairs:
            same = pair.key_track[:, None] == pair.reference_track[None]  # (A, R)
            seen = same.any(1)  # others have no positive, and are not counted in the mean
            contrastive.append(
                contrastive_loss(pair.key[seen], pair.reference, same[seen], ~same[seen])
            )
            auxiliary.append(auxiliary_loss(pair.key, pair.reference, same, self.released))
        return {
            "loss_track": self.contrastive_weight * torch.stack(contrastive).mean(),
            "loss_track_aux": self.auxiliary_weight * torch.stack(auxiliary).mean(),
        }


@full_precision
def auxiliary_loss(key: Tensor, reference: Tensor, same: Tensor, released: bool = False) -> Tensor:
    """(cos - c)^2, c 1 for pairs of the same object and 0 for others; the mean over pairs.

    All pairs of the same object count, and ``NEGATIVES`` times as many others, at random.

    Args:
        key: (A, C_e); A may be 0, which costs 0.
        reference: (R, C_e).
        same: (A, R) bool.
        released: as the published code for BDD100K has it: the others are those that cost most,
            ``RELEASED_MARGIN`` is taken off their cosines, and cosines below 0 count as 0.

    Returns:
        Scalar.
    """
    cosines = F.normalize(key, dim=1) @ F.normalize(reference, dim=1).t()
    near, far = cosines[same], cosines[~same]
    if released:
        near, far = near.clamp(0, 1), (far - RELEASED_MARGIN).clamp(0, 1)
    near, far = (near - 1).square(), far.square()
    count = min(NEGATIVES * len(near), len(far))
    if released:
        far = far.topk(count).values
    else:
        far = far[torch.randperm(len(far), device=far.device)[:count]]
    return (near.sum() + far.sum()) / max(len(near) + count, 1) + 0 * (key.sum() + reference.sum())
