"""MinVIS: Mask2Former on every frame; the embeddings of its queries link the frames."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.frame_training import (
    FrameQueries,
    TrainedClips,
    TrainedFrame,
    in_clips,
    stand_ins,
)
from vmt.modeling.mask2former.criterion import Mask2FormerCriterion
from vmt.modeling.mask2former.detector import Detector
from vmt.modeling.mask2former.options import Mask2FormerOptions
from vmt.modeling.mask2former.reference import inference_outputs, training_outputs
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import (
    ClipBatch,
    ModelOptions,
    ReferenceInputs,
    ReferenceOutputs,
)
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import frame_targets
from vmt.structures.labels import LabelSpace


@register(META_ARCHITECTURES, "MinVIS")
class MinVIS(Detector):
    """MinVIS (arXiv:2208.02245); on single images it is Mask2Former (arXiv:2112.01527).

    Args:
        backbone: gives the maps of strides 4 to 32.
        network: sizes.
        options: see ``ModelOptions``.
        criterion: its losses.
    """

    association = "embedding_hungarian"
    has_boxes = False

    criterion: Mask2FormerCriterion

    def __init__(
        self,
        backbone: Backbone,
        network: Mask2FormerOptions,
        options: ModelOptions,
        criterion: Mask2FormerCriterion,
    ) -> None:
        super().__init__(backbone, network, options)
        self.criterion = criterion

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> MinVIS:
        """See ``VideoModel``."""
        return cls(
            build_backbone(cfg),
            Mask2FormerOptions.from_config(cfg),
            ModelOptions.from_config(cfg, label_space),
            Mask2FormerCriterion.from_config(cfg),
        )

    def training_step(self, batch: ClipBatch) -> TrainedClips:
        """See ``SharpenableModel``; every frame of a clip is an image of its own."""
        clips = [self.normalise(clip) for clip in batch.clips]
        return self._train(clips, batch.targets, self.loss_count(batch), slice(None))

    def train_frames(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], count: float | Tensor
    ) -> TrainedClips:
        """See ``RefinableFrameModel``."""
        return self._train(clips, targets, count, slice(None, None, len(clips[0])))

    def _train(
        self,
        clips: Sequence[Tensor],
        targets: Sequence[ClipTargets],
        count: float | Tensor,
        keys: slice,
    ) -> TrainedClips:
        """``train_frames``, with the losses of those of the B*T frames that are ``keys``."""
        num_frames, (frames, _) = len(clips[0]), self.pad(clips)
        truth = frame_targets(targets, (int(frames.shape[-2]), int(frames.shape[-1])))
        out = self.forward_frames(frames)
        embeds, pixel = out.embeds[-1], out.pixel
        outputs = self.predictions([states[keys] for states in out.embeds])
        result = self.criterion(outputs, truth[keys], pixel[keys], count)
        last = self.predictions([embeds])[""]
        matches = self.assignments(last, result.matches[""], truth, pixel)
        trained = [
            TrainedFrame(
                embeds[n],
                last.logits[n],
                None,
                pixel[n],
                None,
                *stand_ins(match, embeds.shape[1], len(target)),
                target,
            )
            for n, (match, target) in enumerate(zip(matches, truth, strict=True))
        ]
        losses = self.criterion.weighted(result.losses)
        return TrainedClips(losses, in_clips(trained, num_frames), out.maps, targets)

    def find_queries(self, frames: Tensor) -> FrameQueries:
        """See ``RefinableFrameModel``."""
        out = self.replayed(self.forward_frames, self.pad([frames])[0])
        return FrameQueries(out.embeds[-1], out.pixel, None, None, out.maps)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs, self.segment_normalised)
