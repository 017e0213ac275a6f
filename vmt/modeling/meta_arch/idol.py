"""IDOL: objects of every frame alone, and an embedding by which they are found again."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.condinst.criterion import IDOLCriterion
from vmt.modeling.condinst.detector import Detector
from vmt.modeling.condinst.options import CondInstOptions
from vmt.modeling.condinst.reference import inference_outputs, training_outputs
from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.registry import META_ARCHITECTURES, register
from vmt.modeling.video_model import (
    ClipBatch,
    FrameOutputs,
    ModelOptions,
    ReferenceInputs,
    ReferenceOutputs,
)
from vmt.ops.frames import frame_chunks
from vmt.structures.labels import LabelSpace
from vmt.utils.precision import arithmetic


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

    def losses(self, batch: ClipBatch, adversary: Adversary | None = None) -> dict[str, Tensor]:
        """See ``VideoModel``; clips of one frame teach the objects of frames alone."""
        clips = [self.normalise(clip) for clip in batch.clips]
        out = self.forward_training(clips, batch.targets, self.criterion)
        return self.criterion.weighted(out.losses)

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Objects of key frames: how many queries they get is known too late."""
        return mean_tracklets([clip.valid[:, 0].nonzero() for clip in batch.targets], self.device)

    @torch.inference_mode()
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``FrameModel``."""
        outputs: list[FrameOutputs] = []
        for rows in frame_chunks(len(frames), self.frame_chunk):
            with arithmetic(self.precision, self.device):
                part = self.normalise(frames[rows])
                size = int(part.shape[-2]), int(part.shape[-1])
                outputs += self.outputs(self.forward_frames(*self.pad([part])), size)
        return outputs

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """See ``FrameModel``."""
        if self.training:
            return training_outputs(self, self.criterion, inputs)
        return inference_outputs(self, inputs)
