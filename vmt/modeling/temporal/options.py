"""How RefineVIS learns, checked."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.modeling.temporal.tar import TAROptions
from vmt.utils.errors import ConfigError

PASSES = ("recurrent", "joint")
TRACKLETS = ("tracker", "gt")
ABSENT = ("none", "object")


@dataclass(frozen=True)
class TrackletOptions:
    """Tracklets of training clips; see ``vmt.config.keys.refinevis``.

    Args:
        kind: one of ``TRACKLETS``.
        min_iou: of a query with its object.
        min_score: of a query for the class of its object, and of what is tracked.
        num_negatives: tracklets at most that are no object.
    """

    kind: str = "tracker"
    min_iou: float = 0.3
    min_score: float = 0.05
    num_negatives: int = 20


@dataclass(frozen=True)
class LearningOptions:
    """What RefineVIS learns beside its frame model; see ``vmt.config.keys.refinevis``.

    Args:
        tracklets: those that are refined.
        absent_class: whether a tracklet has its object's class where a frame does not show it.
        recurrent: a frame reads refined embeddings of the frames before it, not all frames at once.
        association_denoising: whether denoising queries teach the association.
        temporal_denoising: whether they teach the refinement.
        contrastive_weight: of the contrastive loss.
        cosine_weight: of the squared error of cosines; 0: none.
        gaps: share of the matches behind a tracklet's first that refinement is not shown.
    """

    tracklets: TrackletOptions = TrackletOptions()
    absent_class: bool = False
    recurrent: bool = True
    association_denoising: bool = True
    temporal_denoising: bool = True
    contrastive_weight: float = 1.0
    cosine_weight: float = 0.0
    gaps: float = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LearningOptions:
        """Read ``MODEL.REFINEVIS``.

        Raises:
            ConfigError: a value that makes no sense.
        """
        node = cfg.MODEL.REFINEVIS
        rules = [
            (key, node[key], node[key] in words, " or ".join(words))
            for key, words in (
                ("TRAIN_PASS", PASSES),
                ("TRAIN_TRACKLETS", TRACKLETS),
                ("ABSENT_CLASS", ABSENT),
            )
        ]
        rules += [
            (key, node[key], 0 <= node[key] < 1, "a number in [0, 1)")
            for key in ("TRAIN_IOU", "TRAIN_SCORE", "TRAIN_GAPS")
        ]
        rules += [
            (key, node[key], node[key] >= 0, "0 or more")
            for key in ("NEGATIVE_TRACKLETS", "CONTRASTIVE_WEIGHT", "COSINE_WEIGHT")
        ]
        for key, value, works, what in rules:
            if not works:
                raise ConfigError(f"MODEL.REFINEVIS.{key} is {value!r}; give {what}.")
        tracklets = TrackletOptions(
            node.TRAIN_TRACKLETS, node.TRAIN_IOU, node.TRAIN_SCORE, node.NEGATIVE_TRACKLETS
        )
        return cls(
            tracklets,
            node.ABSENT_CLASS == "object",
            node.TRAIN_PASS == "recurrent",
            node.ASSOCIATION_CDN,
            node.TEMPORAL_CDN,
            node.CONTRASTIVE_WEIGHT,
            node.COSINE_WEIGHT,
            node.TRAIN_GAPS,
        )


def tar_options(cfg: CfgNode, dim: int) -> TAROptions:
    """Sizes of the refinement, for embeddings of ``dim`` channels.

    Raises:
        ConfigError: a value with which none can be built.
    """
    node = cfg.MODEL.REFINEVIS
    if node.NUM_HEADS < 1 or node.FFN_DIM < 1:
        key = "NUM_HEADS" if node.NUM_HEADS < 1 else "FFN_DIM"
        raise ConfigError(f"MODEL.REFINEVIS.{key} is {node[key]}; give at least 1.")
    return TAROptions(dim, node.NUM_HEADS, node.FFN_DIM, node.WINDOW, node.NORM, node.POSITION)
