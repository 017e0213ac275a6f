"""MaskDINO: an encoder selects queries, a decoder moves their boxes, dot products cut them out."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.ota import ReferencePairs
from vmt.modeling.frame_training import (
    FrameQueries,
    TrainedClips,
    TrainedFrame,
    in_clips,
    pairs_by_box,
    stand_ins,
)
from vmt.modeling.maskdino.criterion import MaskDINOCriterion
from vmt.modeling.maskdino.denoising import Noise
from vmt.modeling.maskdino.detector import Detector
from vmt.modeling.maskdino.options import MaskDINOOptions
from vmt.modeling.maskdino.reference import inference_outputs, training_outputs
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
from vmt.utils.device import constant


@register(META_ARCHITECTURES, "MaskDINO")
class MaskDINO(Detector):
    """MaskDINO (arXiv:2206.02777), a frame at a time.

    Args:
        backbone: gives the maps of strides 4 to 32.
        network: sizes and switches.
        options: see ``ModelOptions``.
        criterion: its losses.
        noise: of the denoising queries.
    """

    criterion: MaskDINOCriterion

    def __init__(
        self,
        backbone: Backbone,
        network: MaskDINOOptions,
        options: ModelOptions,
        criterion: MaskDINOCriterion,
        noise: Noise,
    ) -> None:
        super().__init__(backbone, network, options)
        self.criterion = criterion
        self.noise = noise

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> MaskDINO:
        """See ``VideoModel``."""
        node = cfg.MODEL.MASKDINO
        return cls(
            build_backbone(cfg),
            MaskDINOOptions.from_config(cfg),
            ModelOptions.from_config(cfg, label_space),
            MaskDINOCriterion.from_config(cfg),
            Noise(node.DN_QUERIES, node.DN_NOISE, node.DN_KIND),
        )

    def training_step(self, batch: ClipBatch) -> TrainedClips:
        """See ``SharpenableModel``; every frame of a clip is an image of its own."""
        clips = [self.normalise(clip) for clip in batch.clips]
        return self._train(clips, batch.targets, self.loss_count(batch), slice(None))

    @property
    def denoising_kind(self) -> str:
        """See ``RefinableFrameModel``."""
        return self.noise.kind if self.noise.num_queries else ""

    def train_frames(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], count: float | Tensor
    ) -> TrainedClips:
        """See ``RefinableFrameModel``; noisy queries of first frames alone learn objects."""
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
        out = self.forward_training(frames, truth, self.noise, self.box_init)
        noisy = None if out.noisy is None else out.noisy.of_frames(keys)
        outputs, pixel = self.predictions(out, keys), out.pixel
        result = self.criterion(outputs, noisy, truth[keys], pixel[keys], count)
        embeds, last = self.last_layer(out)
        matches = self.assignments(last, result.matches[""], truth, pixel)
        trained = [
            TrainedFrame(
                embeds[n],
                last.logits[n],
                last.boxes[n],
                pixel[n],
                None,
                *stand_ins(match, embeds.shape[1], len(target)),
                target,
                self.noisy_embeddings(out, n),
            )
            for n, (match, target) in enumerate(zip(matches, truth, strict=True))
        ]
        losses = self.criterion.weighted(result.losses)
        return TrainedClips(losses, in_clips(trained, num_frames), out.maps, targets)

    def reference_pairs(self, frame: TrainedFrame) -> ReferencePairs:
        """See ``RefinableFrameModel``."""
        return pairs_by_box(self.criterion.ota, frame)

    def find_queries(self, frames: Tensor) -> FrameQueries:
        """See ``RefinableFrameModel``."""
        padded, _ = self.pad([frames])
        out = self.replayed(self.forward_frames, padded, self.box_init)
        (H, W), (height, width) = padded.shape[-2:], frames.shape[-2:]
        last, features = out.states[-1], out.features
        boxes = last.boxes * constant((W / width, H / height) * 2, last.boxes)
        return FrameQueries(last.embeds, features.pixel, boxes, None, features.maps)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs)
