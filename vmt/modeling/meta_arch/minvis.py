"""MinVIS: Mask2Former on every frame; the embeddings of its queries link the frames."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.mask2former.criterion import Mask2FormerCriterion
from vmt.modeling.mask2former.detector import STRIDE, Detector
from vmt.modeling.mask2former.options import Mask2FormerOptions
from vmt.modeling.mask2former.reference import inference_outputs, training_outputs
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import (
    ClipBatch,
    FrameOutputs,
    ModelOptions,
    ReferenceInputs,
    ReferenceOutputs,
)
from vmt.ops.frames import frame_chunks
from vmt.structures.frame_targets import frame_targets
from vmt.structures.labels import LabelSpace
from vmt.utils.precision import arithmetic


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

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``; every frame of a clip is an image of its own."""
        frames, _ = self.pad([self.normalise(clip) for clip in batch.clips])
        targets = frame_targets(batch.targets, (int(frames.shape[-2]), int(frames.shape[-1])))
        out = self.forward_frames(frames)
        outputs, count = self.predictions(out.embeds), self.loss_count(batch)
        return self.criterion.weighted(self.criterion(outputs, targets, out.pixel, count).losses)

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Objects of all frames; see ``VideoModel``."""
        return mean_tracklets([clip.valid.nonzero() for clip in batch.targets], self.device)

    @torch.inference_mode()
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``FrameModel``."""
        outputs: list[FrameOutputs] = []
        for rows in frame_chunks(len(frames), self.frame_chunk):
            with arithmetic(self.precision, self.device):
                outputs += self._segment(self.normalise(frames[rows]))
        return outputs

    def _segment(self, frames: Tensor) -> list[FrameOutputs]:
        padded, _ = self.pad([frames])
        out = self.forward_frames(padded)
        embeds, pixel = out.embeds[-1], out.pixel
        logits = self.class_head(embeds)
        height, width = (int(side) for side in frames.shape[-2:])
        return [
            FrameOutputs(
                logits[i],
                None,
                self.in_precision(self.mask_head),
                embeds[i],
                STRIDE,
                (height, width),
                query=embeds[i],
                pixel=pixel[i],
                no_object=True,
                maps=None if out.maps is None else out.maps[i],
            )
            for i in range(len(frames))
        ]

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs, self._segment)
