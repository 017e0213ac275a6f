"""SeqFormer: a clip is encoded, queries find its tracklets, a dynamic mask head cuts them out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.layers.adapter import Adapter
from vmt.layers.mask_head import STRIDE
from vmt.layers.query_heads import best_queries
from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.set_criterion import SetCriterion
from vmt.modeling.dense_part import DensePart
from vmt.modeling.refiners.base import RefinerOutput
from vmt.modeling.seqformer.decoder import LayerState, QueryStates
from vmt.modeling.seqformer.dense_part import ClipPart
from vmt.modeling.seqformer.detector import ClipFeatures, Detector, DetectorParts, TrainingStep
from vmt.modeling.video_model import ClipBatch, ModelOptions
from vmt.ops.frames import unfold_frames
from vmt.ops.resize import aligned_upsample2
from vmt.structures.decoder_outputs import DecoderOutputs
from vmt.structures.labels import LabelSpace
from vmt.structures.predictions import ClipTracklets
from vmt.utils.precision import arithmetic


@dataclass(frozen=True)
class ClipForward:
    """Everything that one clip went through at inference, for parity checks and pictures.

    Args:
        frames: (T, 3, H, W), normalised.
        features: before the decoder.
        query: (Q, C) of the last layer.
        logits: (Q, num_classes).
        boxes_cxcywh: (T, Q, 4).
        selected: (N,) int64, ascending: queries among the best (query, class) pairs.
        queries: their states.
        coarse_logits: (N, T, h8, w8).
        refined: what a refiner says, where there is one.
    """

    frames: Tensor
    features: ClipFeatures
    query: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    selected: Tensor
    queries: QueryStates
    coarse_logits: Tensor
    refined: RefinerOutput | None = None


class SeqFormer(Detector):
    """SeqFormer (arXiv:2112.08275).

    Args:
        parts: see ``DetectorParts``.
        options: see ``ModelOptions``.
        criterion: its losses.
        top_k: (query, class) pairs that select queries at inference.
    """

    takes_adversary = True
    not_exported = (
        "MS-STS's attention over frames works in pieces, as many as the batch asks for, and a "
        "graph has a fixed number of them"
    )

    def __init__(
        self, parts: DetectorParts, options: ModelOptions, criterion: SetCriterion, top_k: int = 10
    ) -> None:
        super().__init__(parts, options)
        self.criterion = criterion
        self.top_k = top_k

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> SeqFormer:
        """Build from ``MODEL``."""
        return cls(
            DetectorParts.from_config(cfg, build_backbone(cfg), len(label_space)),
            ModelOptions.from_config(cfg, label_space),
            SetCriterion.from_config(cfg),
            cfg.TEST.TOP_K,
        )

    # --- training -------------------------------------------------------------------------------

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """Losses of all decoder layers, and those of the adversary, weighted."""
        step = self.detect(batch)
        losses = self.criterion.weighted(step.result.losses)
        if adversary is not None:
            losses |= adversary(step.adversary_input(batch))
        return losses

    def detect(self, batch: ClipBatch) -> TrainingStep:
        """The forward pass of a batch, matched with its targets."""
        num_frames, targets = batch.num_frames, batch.targets
        frames, padding = self.pad([self.normalise(clip) for clip in batch.clips])
        features = self.encode(frames, padding, num_frames)
        states = self.decode(features, num_frames)
        mask_features = unfold_frames(features.mask_features, num_frames)

        def masks_of(layer: int, clip: int, query_index: Tensor) -> Tensor:
            queries = states[layer].select(clip, query_index, targets[clip].input_size)
            masks = self.coarse(queries.query, queries.centres_px, mask_features[clip])
            return aligned_upsample2(masks)

        outputs = DecoderOutputs(
            torch.stack([self.class_logits(i, state.query) for i, state in enumerate(states)]),
            torch.stack([state.boxes for state in states]),
        )
        result = self.criterion(outputs, targets, masks_of)
        return TrainingStep(frames, features, states[-1], result)

    # --- inference ------------------------------------------------------------------------------

    def segment_clip(self, frames: Tensor) -> ClipTracklets:
        """The ``top_k`` best tracklets at most, refined where there is a refiner."""
        out = self.run_clip(self.normalise(frames))
        masks, stride = out.coarse_logits, STRIDE
        if out.refined is not None:
            masks, stride = out.refined.mask_logits, out.refined.mask_stride
        return ClipTracklets(
            query_index=out.selected,
            class_probs=out.logits[out.selected].float().sigmoid(),
            embeddings=out.queries.query,
            boxes_cxcywh=out.queries.boxes_cxcywh,
            mask_logits=masks,
            mask_stride=stride,
            input_size=out.queries.frame_size,
        )

    @torch.inference_mode()
    def run_clip(self, frames: Tensor) -> ClipForward:
        """``segment_clip`` from normalised frames (T, 3, H, W), with every stage kept."""
        with arithmetic(self.precision, self.device):
            return self.forward_clip(frames.to(self.device))

    def forward_clip(self, frames: Tensor) -> ClipForward:
        """``run_clip`` for frames on the device, in the precision that the caller has set."""
        features, state, logits = self.replayed(self.find_all, frames)
        query, boxes = state.query[0], state.boxes[0]
        selected = best_queries(logits, self.top_k)
        queries = state.select(0, selected, (int(frames.shape[-2]), int(frames.shape[-1])))
        masks = self.coarse(queries.query, queries.centres_px, features.mask_features)
        return ClipForward(frames, features, query, logits, boxes, selected, queries, masks)

    def find_all(self, frames: Tensor) -> tuple[ClipFeatures, LayerState, Tensor]:
        """Features of a clip, all queries behind the last layer, and their (Q, num_classes) logits.

        Everything whose shapes follow from those of the frames.
        """
        features = self.encode_clip(frames)
        state = self.decode(features, len(frames))[-1]
        return features, state, self.class_logits(-1, state.query[0])

    def dense_part(self) -> DensePart:
        """See ``VideoModel``; up to the coarse masks."""
        if any(isinstance(part, Adapter) for part in self.modules()):
            return super().dense_part()
        return ClipPart(self)

    def reference_arrays(self, frames: Tensor) -> dict[str, Tensor]:
        """Outputs of every stage; masks after the published upsampling by 2."""
        out = self.run_clip(frames)
        arrays = {
            "memory": out.features.memory,
            "query": out.query,
            "logits": out.logits,
            "boxes": out.boxes_cxcywh,
            "selected": out.selected,
            "masks_coarse": aligned_upsample2(out.coarse_logits),
        }
        if out.refined is not None:
            arrays["masks_stride4"] = aligned_upsample2(out.refined.stage_logits)
            arrays["masks_refined"] = aligned_upsample2(out.refined.mask_logits)
        return arrays
