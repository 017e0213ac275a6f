"""RefineVIS: a frame model, tracklets of its queries, and attention inside each over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.layers.mlp import MLP
from vmt.modeling.criteria.contrastive import association_losses
from vmt.modeling.frame_part import FramePart
from vmt.modeling.frame_training import (
    ObjectEmbeddings,
    RefinableFrameModel,
    SharpenableModel,
    TrainedClips,
    TrainedFrame,
    contrast,
    first_frame_count,
    objects_of,
)
from vmt.modeling.registry import META_ARCHITECTURES, lookup, register
from vmt.modeling.temporal.denoising import association_denoising
from vmt.modeling.temporal.options import LearningOptions, tar_options
from vmt.modeling.temporal.refinement import refined, refinement_losses
from vmt.modeling.temporal.tar import TAR, TAROptions
from vmt.modeling.video_model import ClipBatch, FrameOutputs, ModelOptions, RefiningModel
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic

#: What follows behind the frame model's dense part.
REFINEMENT = (
    "the query of a tracklet is refined by those of earlier frames before class and mask heads "
    "take it"
)


@register(META_ARCHITECTURES, "RefineVIS")
class RefineVIS(RefiningModel, SharpenableModel):
    """RefineVIS (arXiv:2306.04774).

    Args:
        frame_model: finds the objects of each frame.
        refinement: sizes of the temporal refinement; a window of 0: none.
        learning: what is learned beside the frame model.
        options: see ``ModelOptions``.
    """

    backbone_path = "frame_model.backbone"

    def __init__(
        self,
        frame_model: RefinableFrameModel,
        refinement: TAROptions,
        learning: LearningOptions,
        options: ModelOptions,
    ) -> None:
        super().__init__(options)
        self.frame_model = frame_model
        self.embed_dim = frame_model.embed_dim
        self.learning = learning
        self.size_divisor = frame_model.size_divisor
        if frame_model.own_association_head() is None:
            dim = frame_model.embed_dim
            self.association_head = MLP(dim, dim, dim, 3)
        self.window = refinement.window
        self.tar = TAR(refinement) if refinement.window else None

    @classmethod
    def from_config(cls, cfg: CfgNode, label_space: LabelSpace) -> RefineVIS:
        """See ``VideoModel``."""
        key, learning = "MODEL.REFINEVIS.FRAME_MODEL", LearningOptions.from_config(cfg)
        entry = lookup(META_ARCHITECTURES, cfg.MODEL.REFINEVIS.FRAME_MODEL, key)
        if not issubclass(entry, RefinableFrameModel):
            raise ConfigError(
                f"{key}: {cfg.MODEL.REFINEVIS.FRAME_MODEL} gives no embeddings of the objects of "
                "frames that could be refined; give MaskDINO, IDOL or MinVIS."
            )
        frame_model = entry.from_config(cfg, label_space)
        denoising = learning.association_denoising or learning.temporal_denoising
        if denoising and frame_model.denoising_kind not in ("", "contrastive"):
            raise ConfigError(
                "MODEL.REFINEVIS.ASSOCIATION_CDN and TEMPORAL_CDN need contrastive denoising "
                "queries, and MODEL.MASKDINO.DN_KIND is "
                f"{frame_model.denoising_kind!r}; set contrastive, or both to False."
            )
        return cls(
            frame_model,
            tar_options(cfg, frame_model.embed_dim),
            learning,
            ModelOptions.from_config(cfg, label_space),
        )

    # --- what the frame model says --------------------------------------------------------------

    def stages(self) -> list[nn.Module]:
        """Those of the frame model."""
        return self.frame_model.stages()

    def lr_groups(self) -> dict[str, str]:
        """As the frame model has them; all else learns at the base rate."""
        groups = self.frame_model.lr_groups()
        return {f"frame_model.{prefix}": key for prefix, key in groups.items()}

    def undecayed(self) -> set[str]:
        """As the frame model has it; norms of the refinement are not decayed either."""
        names = {f"frame_model.{name}" for name in self.frame_model.undecayed()}
        return names | {name for name, _ in self.named_parameters() if name.startswith("tar.norm")}

    def loss_count(self, batch: ClipBatch) -> float | Tensor:
        """Objects of the first frames: only they teach the frame model directly."""
        return first_frame_count(batch, self.device)

    def class_head(self, embeds: Tensor) -> Tensor:
        """See ``RefiningModel``."""
        return self.frame_model.class_head(embeds)

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """See ``RefiningModel``."""
        return self.frame_model.mask_head(embeds, pixel, refs)

    def associated(self, embeds: Tensor) -> Tensor:
        """(..., C) of the frame model -> (..., C'), by which objects of frames are compared."""
        head = self.frame_model.own_association_head()
        compared: Tensor = (self.association_head if head is None else head)(embeds)
        return compared

    # --- inference ------------------------------------------------------------------------------

    @torch.inference_mode()
    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        """See ``FrameModel``; before refinement, which comes with the association."""
        outputs = self.frame_model.segment_frames(frames)
        with arithmetic(self.precision, self.device):
            return [replace(out, embeddings=self.associated(_query(out))) for out in outputs]

    def dense_part(self) -> FramePart:
        """See ``VideoModel``; its frame model."""
        own = self.frame_model.own_association_head()
        head = self.association_head if own is None else own
        return FramePart(self.frame_model, head, () if self.tar is None else (REFINEMENT,))

    def refine(self, embeds: Tensor, times: Tensor, readable: Tensor, last_only: bool) -> Tensor:
        """See ``RefiningModel``."""
        assert self.tar is not None, "a window of 0 refines nothing"
        refined: Tensor = self.tar(embeds, times, readable, last_only)
        return refined

    # --- training -------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch) -> TrainedClips:
        """See ``SharpenableModel``; clips of one frame teach the frame model alone.

        The first frame is the key frame, which all others refer to, and the only one whose objects
        the frame model is told; the other losses reach it from all frames (section 4.1).
        """
        clips = [self.normalise(clip) for clip in batch.clips]
        trained = self.frame_model.train_frames(clips, batch.targets, self.loss_count(batch))
        if batch.num_frames == 1:
            return trained
        losses = trained.losses | self._association_losses(trained.frames)
        if self.tar is not None:
            times = [clip.frame_times for clip in batch.targets]
            losses |= refinement_losses(
                self.frame_model, self.tar, self.associated, trained.frames, times, self.learning
            )
        return replace(trained, losses=losses)

    def objects_in(self, frames: Sequence[TrainedFrame], times: Tensor) -> ObjectEmbeddings:
        """See ``SharpenableModel``; refined, as the masks of tracks are cut out at inference."""
        objects = objects_of(frames)
        if self.tar is None:
            return objects
        begun = objects.present.cumsum(1) > 0 if self.learning.recurrent else None
        embeds = torch.where(objects.present[..., None], objects.embeds, 0.0)
        embeds = refined(self.tar, embeds, times, begun, self.learning.recurrent)
        return replace(objects, embeds=embeds)

    def _association_losses(self, clips: Sequence[Sequence[TrainedFrame]]) -> dict[str, Tensor]:
        """Of embeddings of matched queries, and of denoising queries (section 3.5)."""
        learning = self.learning
        weights = {
            "loss_reid": learning.contrastive_weight,
            "loss_reid_aux": learning.cosine_weight,
        }
        pairs = [(key, other) for key, *others in clips for other in others]
        contrasts = [contrast(self.frame_model, self.associated, *pair) for pair in pairs]
        losses = association_losses(contrasts, cosine=learning.cosine_weight > 0)
        losses = {name: weights[name] * loss for name, loss in losses.items()}
        if learning.association_denoising and self.frame_model.denoising_kind:
            loss = association_denoising(pairs, self.associated)
            losses["loss_reid_dn"] = learning.contrastive_weight * loss
        return losses


def _query(output: FrameOutputs) -> Tensor:
    assert output.query is not None, "a frame model that is refined hands out its queries"
    return output.query
