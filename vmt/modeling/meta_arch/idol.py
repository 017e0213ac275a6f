"""IDOL: objects of every frame alone, and an embedding by which they are found again."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.condinst.criterion import IDOLCriterion
from vmt.modeling.condinst.detector import Detector, TrainingForward
from vmt.modeling.condinst.options import CondInstOptions
from vmt.modeling.condinst.reference import inference_outputs, training_outputs
from vmt.modeling.criteria.ota import ReferencePairs
from vmt.modeling.frame_training import (
    FrameQueries,
    TrainedClips,
    TrainedFrame,
    first_frame_count,
    pairs_by_box,
)
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import (
    ClipBatch,
    FrameOutputs,
    ModelOptions,
    ReferenceInputs,
    ReferenceOutputs,
)
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace


@register(META_ARCHITECTURES, "IDOL")
class IDOL(Detector):
    """IDOL (arXiv:2207.10661).

    Args:
        backbone: gives the maps of strides 8 to 32.
        network: sizes.
        options: see ``ModelOptions``.
        criterion: its losses.
    """

    def __init__(
        self,
        backbone: Backbone,
        network: CondInstOptions,
        options: ModelOptions,
        criterion: IDOLCriterion,
    ) -> None:
        super().__init__(backbone, network, options)
        self.criterion = criterion

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> IDOL:
        """See ``VideoModel``."""
        return cls(
            build_backbone(cfg),
            CondInstOptions.from_config(cfg),
            ModelOptions.from_config(cfg, label_space),
            IDOLCriterion.from_config(cfg),
        )

    def training_step(self, batch: ClipBatch) -> TrainedClips:
        """See ``SharpenableModel``; clips of one frame teach the objects of frames alone."""
        clips = [self.normalise(clip) for clip in batch.clips]
        return self._trained_clips(self.forward_pairs(clips, batch.targets, self.criterion))

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Objects of key frames: how many queries they get is known too late."""
        return first_frame_count(batch, self.device)

    def train_frames(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], count: float | Tensor
    ) -> TrainedClips:
        """See ``RefinableFrameModel``; sums are divided by the queries that have an object."""
        return self._trained_clips(self.forward_training(clips, targets, self.criterion))

    def _trained_clips(self, out: TrainingForward) -> TrainedClips:
        losses = self.criterion.weighted(out.losses)
        return TrainedClips(losses, out.frames, out.maps, out.targets)

    def embedding_losses(
        self,
        embeds: Tensor,
        refs: Tensor | None,
        frame: TrainedFrame,
        labels: Tensor,
        masks: Tensor,
        with_mask: Tensor,
        count: float | Tensor,
    ) -> dict[str, Tensor]:
        """See ``RefinableFrameModel``."""
        assert refs is not None, "dynamic layers read places relative to a reference point"
        logits, chosen = self.class_head(embeds), embeds[with_mask]
        if len(chosen):
            mask_logits = self.mask_head(chosen, frame.pixel, refs[with_mask])
        else:  # tied to the graph, so that every process has the same losses
            tie = 0.0 * (self.masks.controller(embeds).sum() + frame.pixel.sum())
            mask_logits = tie + frame.pixel.new_zeros(0, 1, 1)
        losses = self.criterion.embedding_losses(
            logits, mask_logits, labels, masks[with_mask], count
        )
        return self.criterion.weighted(losses)

    def reference_pairs(self, frame: TrainedFrame) -> ReferencePairs:
        """See ``RefinableFrameModel``."""
        return pairs_by_box(self.criterion.ota, frame)

    def find_queries(self, frames: Tensor) -> FrameQueries:
        """See ``RefinableFrameModel``."""
        out, size = self.replayed(self.forward_frames, *self.pad([frames])), frames.shape[-2:]
        last = out.states[-1]
        refs = last.centres_px((int(size[0]), int(size[1])))
        return FrameQueries(last.embeds, out.pixel, last.boxes, refs, out.maps)

    def segment_normalised(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``RefinableFrameModel``."""
        size = int(frames.shape[-2]), int(frames.shape[-1])
        return self.outputs(self.replayed(self.forward_frames, *self.pad([frames])), size)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs)
