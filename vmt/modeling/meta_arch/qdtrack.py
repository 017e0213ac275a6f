"""QDTrack with masks: objects of every frame alone, and quasi-densely learnt embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.mots.criterion import EmbeddingPair, QuasiDenseCriterion
from vmt.modeling.mots.detector import Pyramid, TwoStageDetector, boxes_in_px
from vmt.modeling.mots.options import DetectorOptions
from vmt.modeling.mots.sampling import RegionOptions, Regions, draw_regions
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import ClipBatch, FrameOutputs, ModelOptions
from vmt.structures.frame_targets import FrameTargets, frame_targets
from vmt.structures.labels import LabelSpace
from vmt.utils.precision import no_autocast


@dataclass(frozen=True)
class TrainingForward:
    """What B clips of T frames went through in training.

    Args:
        losses: weighted.
        frames: (B*T, 3, H, W), normalised and padded.
        features: of all frames.
        targets: B*T.
        proposals: B*T times (P, 4) xyxy in pixels.
    """

    losses: dict[str, Tensor]
    frames: Tensor
    features: Pyramid
    targets: list[FrameTargets]
    proposals: list[Tensor]


@register(META_ARCHITECTURES, "QDTrack")
class QDTrack(TwoStageDetector):
    """QDTrack (arXiv:2006.06664) with the mask head that PCAN (arXiv:2106.11958) gives it.

    Args:
        backbone: gives the maps of all strides of ``network``.
        network: sizes.
        options: see ``ModelOptions``.
        regions: what embeddings learn from.
        criterion: their losses.
        all_frames: reference frames teach the detector too, not only the key frame.
    """

    association = "quasi_dense"
    learns_from_boxes = True
    learns_from_partial_labels = True

    def __init__(
        self,
        backbone: Backbone,
        network: DetectorOptions,
        options: ModelOptions,
        regions: RegionOptions,
        criterion: QuasiDenseCriterion,
        all_frames: bool = False,
    ) -> None:
        super().__init__(backbone, network, options)
        self.regions = regions
        self.criterion = criterion
        self.all_frames = all_frames

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> QDTrack:
        """See ``VideoModel``."""
        return cls(**cls.arguments(cfg, label_space))

    @staticmethod
    def arguments(cfg: CfgNode, label_space: LabelSpace) -> dict[str, Any]:
        """Those of the constructor."""
        return {
            "backbone": build_backbone(cfg),
            "network": DetectorOptions.from_config(cfg),
            "options": ModelOptions.from_config(cfg, label_space),
            "regions": RegionOptions.from_config(cfg),
            "criterion": QuasiDenseCriterion.from_config(cfg),
            "all_frames": cfg.MODEL.MOTS.ALL_FRAMES,
        }

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``; the first frame is the key frame, all others refer to it.

        A clip of one frame is its own reference: different regions of an object belong together.
        """
        return self.forward_training(batch).losses

    def forward_training(self, batch: ClipBatch) -> TrainingForward:
        """B clips of T frames and their losses."""
        padded, _ = self.pad([self.normalise(clip) for clip in batch.clips])
        num_frames = batch.num_frames
        of_frames = [target for target in batch.targets for _ in range(num_frames)]
        features = self.pyramid(padded, [target.input_size for target in of_frames])
        targets = frame_targets(batch.targets, features.padded)
        with no_autocast(self.device):
            proposals, losses = self._detector_losses(features, targets, num_frames)
            losses |= self._embedding_losses(features, targets, proposals, num_frames)
        return TrainingForward(losses, padded, features, targets, proposals)

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Clips: samples per frame are a fixed number; see ``VideoModel``."""
        return float(len(batch.clips))

    def _detector_losses(
        self,
        features: Pyramid,
        targets: list[FrameTargets],
        num_frames: int,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of all frames, and what key frames, or all, teach the detector."""
        step = 1 if self.all_frames else num_frames
        own, own_targets = features.select(slice(None, None, step)), targets[::step]
        proposals, losses = self.proposals(own, own_targets)
        losses |= self.region_losses(own, proposals, own_targets)
        if step > 1:
            with torch.no_grad():  # proposals of all frames; their losses are not wanted
                proposals, _ = self.proposals(features, targets)
        return proposals, losses

    def _embedding_losses(
        self,
        features: Pyramid,
        targets: list[FrameTargets],
        proposals: list[Tensor],
        num_frames: int,
    ) -> dict[str, Tensor]:
        """Of all pairs of a key frame and a reference frame."""
        drawn = [
            self._draw(target, proposals[row], features.padded, row % num_frames == 0, num_frames)
            for row, target in enumerate(targets)
        ]
        embedded = self.embed(
            features, [torch.cat([part.boxes_px for part in parts]) for parts in drawn]
        )
        pieces = [
            list(zip(parts, both.split([len(part.track) for part in parts]), strict=True))
            for parts, both in zip(drawn, embedded, strict=True)
        ]
        pairs = []
        for first in range(0, len(targets), num_frames):
            regions, key = pieces[first][0]
            for row in range(first + min(num_frames - 1, 1), first + num_frames):
                others, reference = pieces[row][-1]
                pairs.append(EmbeddingPair(key, regions.track, reference, others.track))
        return self.criterion(pairs)

    def _draw(
        self,
        target: FrameTargets,
        proposals: Tensor,
        padded: tuple[int, int],
        is_key: bool,
        num_frames: int,
    ) -> list[Regions]:
        """Regions of a frame as key frame, positives alone, and as reference frame."""
        options, boxes = self.regions, boxes_in_px(target, padded).float()
        parts = []
        if is_key:
            regions = draw_regions(proposals, boxes, target.slots, 2 * options.key, options)
            parts.append(regions.positives())
        if not is_key or num_frames == 1:
            parts.append(draw_regions(proposals, boxes, target.slots, options.reference, options))
        return parts

    @torch.inference_mode()
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``FrameModel``."""
        return self.in_chunks(frames, self.outputs)
