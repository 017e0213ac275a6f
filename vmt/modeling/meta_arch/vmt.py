"""Video Mask Transfiner: SeqFormer, and a refiner on top of its masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.set_criterion import SetCriterion
from vmt.modeling.meta_arch.seqformer import ClipForward, SeqFormer
from vmt.modeling.refiners import dense_band
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerLosses, RefinerOutput
from vmt.modeling.refiners.quadtree import refiner as quadtree
from vmt.modeling.registry import META_ARCHITECTURES, REFINERS, lookup, register
from vmt.modeling.seqformer.decoder import QueryStates
from vmt.modeling.seqformer.detector import ClipFeatures, DetectorParts, TrainingStep
from vmt.modeling.video_model import ClipBatch, ModelOptions
from vmt.structures.labels import LabelSpace
from vmt.utils.precision import arithmetic

#: Modules that register a refiner.
REFINER_MODULES = (dense_band, quadtree)


@register(META_ARCHITECTURES, "VideoMaskTransfiner")
class VideoMaskTransfiner(SeqFormer):
    """Video Mask Transfiner (arXiv:2207.14012); with ``MODEL.REFINER.NAME`` none it is SeqFormer.

    Args:
        parts: see ``DetectorParts``.
        options: see ``ModelOptions``.
        criterion: losses of the detector.
        refiner: sharper masks.
        refiner_criterion: losses of the refiner.
        top_k: see ``SeqFormer``.
    """

    keeps_fine_maps = True

    def __init__(
        self,
        parts: DetectorParts,
        options: ModelOptions,
        criterion: SetCriterion,
        refiner: Refiner,
        refiner_criterion: RefinerLosses,
        top_k: int = 10,
    ) -> None:
        super().__init__(parts, options, criterion, top_k)
        self.refiner = refiner
        self.refiner_criterion = refiner_criterion

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> SeqFormer:
        """Build from ``MODEL``; a SeqFormer when the refiner is ``none``."""
        if cfg.MODEL.REFINER.NAME == "none":
            return SeqFormer.from_config(cfg, label_space)
        return cls(**cls.arguments(cfg, label_space))

    @staticmethod
    def arguments(cfg: CfgNode, label_space: LabelSpace) -> dict[str, Any]:
        """Those of the constructor."""
        backbone = build_backbone(cfg)
        refiner = lookup(REFINERS, cfg.MODEL.REFINER.NAME, "MODEL.REFINER.NAME (or none)")
        return {
            "refiner": refiner.from_config(cfg, backbone.channels, cfg.MODEL.SEQFORMER.HIDDEN_DIM),
            "refiner_criterion": refiner.criterion(cfg),
            "parts": DetectorParts.from_config(cfg, backbone, len(label_space)),
            "options": ModelOptions.from_config(cfg, label_space),
            "criterion": SetCriterion.from_config(cfg),
            "top_k": cfg.TEST.TOP_K,
        }

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Losses of SeqFormer, and of the refined masks of matched queries."""
        step = self.detect(batch)
        result = step.result
        refined = [self._refine_matched(step, batch, clip) for clip in range(len(batch.clips))]
        refined_losses = self.refiner_criterion.measure(
            refined, batch.targets, result.last_matches, result.num_tracklets
        )
        losses = self.criterion.weighted(result.losses)
        losses |= {k: self.refiner_criterion.weight(k) * v for k, v in refined_losses.items()}
        if adversary is not None:
            losses |= adversary(step.adversary_input(batch))
        return losses

    def _refine_matched(self, step: TrainingStep, batch: ClipBatch, clip: int) -> RefinerOutput:
        """Sharper masks of a clip's queries that the last decoder layer has matched."""
        match, target = step.result.last_matches[clip], batch.targets[clip]
        rows = slice(clip * batch.num_frames, (clip + 1) * batch.num_frames)
        features = step.features.select(rows)
        queries = step.state.select(clip, match.query_index, target.input_size)
        masks = self.coarse(queries.query, queries.centres_px, features.mask_features)
        masks_gt = target.masks[match.target_index]
        output: RefinerOutput = self.refiner(
            self._input(step.frames[rows], features, queries, masks, masks_gt)
        )
        return output

    def forward_clip(self, frames: Tensor) -> ClipForward:
        """SeqFormer's outputs; the masks of the selected queries are refined."""
        out = super().forward_clip(frames)
        return replace(out, refined=self.refiner(self._input_of(out)))

    def left_undone(self) -> str:
        """Points that the refiner left as they were; see ``VideoModel``."""
        return self.refiner.points_left_out()

    @torch.inference_mode()
    def refiner_input(self, frames: Tensor) -> RefinerInput:
        """What the refiner is given for a clip, (T, 3, H, W) RGB in [0, 255]."""
        with arithmetic(self.precision, self.device):
            return self._input_of(super().forward_clip(self.normalise(frames)))

    def _input_of(self, out: ClipForward) -> RefinerInput:
        return self._input(out.frames, out.features, out.queries, out.coarse_logits)

    @staticmethod
    def _input(
        frames: Tensor,
        features: ClipFeatures,
        queries: QueryStates,
        coarse_logits: Tensor,
        masks_gt: Tensor | None = None,
    ) -> RefinerInput:
        """Of one clip of T frames and N queries."""
        assert features.stride4 is not None, "stride-4 maps are kept for the refiner"
        return RefinerInput(
            frames=frames,
            stride4=features.stride4,
            stride2=features.stride2,
            fused=features.fused,
            coarse_logits=coarse_logits,
            query=queries.query,
            centres_px=queries.centres_px,
            boxes_cxcywh=queries.boxes_cxcywh,
            frame_size=queries.frame_size,
            box_query=queries.box_query,
            masks_gt=masks_gt,
        )
