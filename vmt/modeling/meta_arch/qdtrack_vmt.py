"""VMT on QDTrack: the refiner of Video Mask Transfiner on the tracks of a two-stage network."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.meta_arch.qdtrack import QDTrack, TrainingForward
from vmt.modeling.mots.embedding import RegionQuery
from vmt.modeling.mots.tracklets import detected_boxes, window_of
from vmt.modeling.refiners.base import (
    Refiner,
    RefinerInput,
    RefinerLosses,
    RefinerOutput,
    refinement_losses,
)
from vmt.modeling.registry import META_ARCHITECTURES, REFINERS, lookup, register
from vmt.modeling.video_model import ClipBatch
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import frame_targets
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import no_autocast


@register(META_ARCHITECTURES, "QDTrackVMT")
class QDTrackVMT(QDTrack):
    """VMT for BDD100K MOTS (arXiv:2207.14012, Table 7); with ``MODEL.REFINER.NAME`` none, QDTrack.

    Args:
        refiner: sharper masks of tracks.
        refiner_criterion: its losses.
        dim: channels of the pyramid.
        detector: arguments of ``QDTrack``.
    """

    def __init__(
        self, refiner: Refiner, refiner_criterion: RefinerLosses, dim: int, **detector: Any
    ) -> None:
        super().__init__(**detector)
        self.refiner: Refiner = refiner
        self.refiner_criterion = refiner_criterion
        self.region_query = RegionQuery(dim)
        self.keeps_maps = True

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> QDTrack:
        """Build from ``MODEL``; a QDTrack when the refiner is ``none``.

        Raises:
            ConfigError: a value that its key does not allow, or a base that may not learn.
        """
        name, dim = cfg.MODEL.REFINER.NAME, cfg.MODEL.MOTS.DIM
        if name == "none":
            return QDTrack.from_config(cfg, label_space)
        if not cfg.MODEL.REFINER.TRAIN_BASE:
            raise ConfigError(
                "MODEL.REFINER.TRAIN_BASE False is not for QDTrackVMT, whose mask head may go on "
                "learning; name what stays in SOLVER.FREEZE (configs/bdd100k/vmt_R50.yaml does)."
            )
        detector = cls.arguments(cfg, label_space)
        entry = lookup(REFINERS, name, "MODEL.REFINER.NAME (or none)")
        refiner = entry.from_config(cfg, detector["backbone"].channels, dim)
        return cls(refiner, entry.criterion(cfg), dim, **detector)

    def queries(self, regions: Tensor) -> Tensor:
        """See ``TwoStageDetector``."""
        query: Tensor = self.region_query(regions)
        return query

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Losses of QDTrack, and of the refined masks of all tracklets; see ``VideoModel``."""
        step = self.forward_training(batch)
        learned = [
            target.select(target.valid.any(1) & (not target.boxes_only)) for target in batch.targets
        ]
        refined = [self._refine(step, clip, tracklets) for clip, tracklets in enumerate(learned)]
        count = mean_tracklets(learned, self.device)
        return step.losses | refinement_losses(self.refiner_criterion, refined, learned, count)

    def _refine(self, step: TrainingForward, clip: int, tracklets: ClipTargets) -> RefinerOutput:
        """Sharper masks of tracklets of a clip of the batch."""
        num_frames = tracklets.num_frames
        rows = slice(clip * num_frames, (clip + 1) * num_frames)
        features, frames = step.features.select(rows), step.frames[rows]
        targets = frame_targets([tracklets], features.padded)
        with no_autocast(self.device):
            boxes = detected_boxes(self, features, targets, step.proposals[rows])
            window = window_of(self, frames, features, targets, boxes)
        output: RefinerOutput = self.refiner(RefinerInput.of_tracks(window, tracklets.masks))
        return output
