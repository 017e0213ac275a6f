"""MaskDINO: an encoder selects queries, a decoder moves their boxes, dot products cut them out."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.maskdino.criterion import MaskDINOCriterion
from vmt.modeling.maskdino.denoising import Noise
from vmt.modeling.maskdino.detector import STRIDE, Detector
from vmt.modeling.maskdino.options import MaskDINOOptions
from vmt.modeling.maskdino.reference import inference_outputs, training_outputs
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

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``; every frame of a clip is an image of its own."""
        frames, _ = self.pad([self.normalise(clip) for clip in batch.clips])
        targets = frame_targets(batch.targets, (int(frames.shape[-2]), int(frames.shape[-1])))
        out = self.forward_training(frames, targets, self.noise, self.box_init)
        outputs, count = self.predictions(out, slice(None)), self.loss_count(batch)
        result = self.criterion(outputs, out.noisy, targets, out.pixel, count)
        return self.criterion.weighted(result.losses)

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
        out = self.forward_frames(padded, self.box_init)
        last, pixel, maps = out.states[-1], out.features.pixel, out.features.maps
        logits = self.class_head(last.embeds)
        (H, W), (height, width) = padded.shape[-2:], frames.shape[-2:]
        boxes = last.boxes * last.boxes.new_tensor([W / width, H / height]).repeat(2)
        return [
            FrameOutputs(
                logits[i],
                boxes[i],
                self.in_precision(self.mask_head),
                last.embeds[i],
                STRIDE,
                (int(height), int(width)),
                query=last.embeds[i],
                pixel=pixel[i],
                maps=None if maps is None else maps[i],
            )
            for i in range(len(frames))
        ]

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs)
