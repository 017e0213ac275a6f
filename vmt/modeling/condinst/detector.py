"""The parts of IDOL's network, and the steps from frames to queries, and from clips to losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Levels
from vmt.layers.dynamic_conv import split_dynamic_parameters
from vmt.layers.mask_head import MaskHead
from vmt.layers.mlp import MLP
from vmt.layers.query_heads import BoxHeads, ClassHeads
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.backbones.neck import Neck
from vmt.modeling.condinst.criterion import IDOLCriterion, Predictions
from vmt.modeling.condinst.decoder import Decoder, QueryStates
from vmt.modeling.condinst.encoder import CondInstEncoder
from vmt.modeling.condinst.options import CondInstOptions
from vmt.modeling.criteria.contrastive import association_losses
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.frame_part import FramePart
from vmt.modeling.frame_training import (
    FrameQueries,
    RefinableFrameModel,
    TrainedFrame,
    contrast,
    stand_ins,
)
from vmt.modeling.video_model import FrameOutputs, ModelOptions
from vmt.ops.resize import aligned_upsample2
from vmt.structures.clip import ClipTargets
from vmt.structures.frame_targets import FrameTargets, frame_targets
from vmt.structures.track_window import FrameMaps

#: Input pixels per cell of the masks: the mask head's stride 8, doubled.
STRIDE = 4


@dataclass(frozen=True)
class FrameForward:
    """What N frames went through.

    Args:
        memory: (N, S, C).
        levels: layout of its tokens.
        pixel: (N, mask_channels, h8, w8), what the dynamic layers read.
        states: of the queries behind each decoder layer.
        maps: what a refiner reads of the frames, where there is one.
    """

    memory: Tensor
    levels: Levels
    pixel: Tensor
    states: list[QueryStates]
    maps: FrameMaps | None = None


@dataclass(frozen=True)
class TrainingForward:
    """What B clips went through in training.

    Args:
        losses: not weighted.
        last: the last decoder layer on the B key frames.
        matches: B per decoder layer.
        frames: B lists of T.
        maps: of the B*T frames, see ``TrainedClips``.
        targets: B, likewise.
    """

    losses: dict[str, Tensor]
    last: Predictions
    matches: list[list[OtaMatch]]
    frames: list[list[TrainedFrame]]
    maps: FrameMaps | None
    targets: Sequence[ClipTargets]


class Detector(RefinableFrameModel):
    """CondInst on Deformable DETR, with embeddings for association (IDOL, arXiv:2207.10661).

    Args:
        backbone: gives the maps of strides 8 to 32.
        network: sizes.
        options: see ``ModelOptions``.
    """

    has_refs = True

    def __init__(self, backbone: Backbone, network: CondInstOptions, options: ModelOptions) -> None:
        super().__init__(options)
        dim, layers = network.dim, network.decoder_layers
        self.embed_dim = dim
        self.backbone = backbone
        self.neck = Neck(backbone, dim, network.num_levels)
        self.encoder = CondInstEncoder(network.encoder_layers, **network.attention)
        self.decoder = Decoder(network)
        heads = {"cls": ClassHeads(layers, dim, len(options.label_space))}
        self.heads = nn.ModuleDict({**heads, "box": BoxHeads(layers, dim)})
        self.masks = MaskHead(dim, network.mask_channels)
        self.association_head = MLP(dim, dim, dim, 3)

    def stages(self) -> list[nn.Module]:
        """Layers of encoder and decoder."""
        return [*self.encoder.layers, *self.decoder.layers]

    def lr_groups(self) -> dict[str, str]:
        """The reference points of the decoder too learn as slowly as sampling offsets."""
        return {**super().lr_groups(), "decoder.reference.": "SAMPLING_FACTOR"}

    def forward_frames(self, frames: Tensor, padding: Tensor | None) -> FrameForward:
        """The forward pass.

        Args:
            frames: (N, 3, H, W), normalised and padded.
            padding: (N, H, W) bool, True on padding; None when nothing is padded.
        """
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        memory, levels = self.encoder(self.neck(maps), padding)
        fused = self.masks.fuse(memory, levels.shapes)
        pixel = self.masks.mask_features(fused)
        states = self.decoder(memory, levels, cast(BoxHeads, self.heads["box"]))
        kept = FrameMaps.of(frames, maps, fused) if self.keeps_maps else None
        return FrameForward(memory, levels, pixel, states, kept)

    # --- heads ----------------------------------------------------------------------------------

    def class_logits(self, layer: int, embeds: Tensor) -> Tensor:
        """(..., C) queries behind a decoder layer -> (..., num_classes)."""
        logits: Tensor = cast(ClassHeads, self.heads["cls"])[layer](embeds)
        return logits

    def own_association_head(self) -> nn.Module:
        """See ``RefinableFrameModel``."""
        return self.association_head

    def class_head(self, embeds: Tensor) -> Tensor:
        """See ``RefinableFrameModel``; the last layer's."""
        return self.class_logits(-1, embeds)

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """See ``RefinableFrameModel``; masks of stride 4."""
        assert refs is not None, "dynamic layers read places relative to a reference point"
        layers = split_dynamic_parameters(self.masks.controller(embeds), self.masks.widths)
        return aligned_upsample2(self.masks.frame_logits(layers, refs, pixel))

    def all_masks(self, queries: FrameQueries) -> Tensor:
        """See ``RefinableFrameModel``; every query is given the features of its frame."""
        assert queries.refs is not None, "dynamic layers read places relative to a reference point"
        num_queries = int(queries.embeds.shape[1])
        pixel = queries.pixel.repeat_interleave(num_queries, 0)
        masks = self.mask_head(queries.embeds.flatten(0, 1), pixel, queries.refs.flatten(0, 1))
        by_frame: Tensor = masks.unflatten(0, (-1, num_queries))
        return by_frame

    def dense_part(self) -> FramePart:
        """See ``VideoModel``."""
        return FramePart(self, self.association_head)

    # --- inference ------------------------------------------------------------------------------

    def outputs(self, out: FrameForward, size: tuple[int, int]) -> list[FrameOutputs]:
        """What N frames of (H, W) ``size`` are to an association."""
        last = out.states[-1]
        logits, embeddings = self.class_head(last.embeds), self.association_head(last.embeds)
        refs = last.centres_px(size)
        return [
            FrameOutputs(
                logits[n],
                last.boxes[n],
                self.in_precision(self.mask_head),
                embeddings[n],
                STRIDE,
                size,
                query=last.embeds[n],
                pixel=out.pixel[n],
                refs=refs[n],
                upsampling="nearest",
                maps=None if out.maps is None else out.maps[n],
            )
            for n in range(len(refs))
        ]

    # --- training -------------------------------------------------------------------------------

    def forward_training(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], criterion: IDOLCriterion
    ) -> TrainingForward:
        """B clips and the losses of their first frames.

        Args:
            clips: B tensors (T, 3, H_b, W_b), normalised.
            targets: B.
            criterion: the losses.
        """
        num_frames = len(clips[0])
        out = self.forward_frames(*self.pad(clips))
        frames = [frame_targets([clip], clip.input_size) for clip in targets]
        keys = [clip[0] for clip in frames]
        layers = [
            Predictions(self.class_logits(i, s.embeds[::num_frames]), s.boxes[::num_frames])
            for i, s in enumerate(out.states)
        ]

        def masks_of(layer: int, clip: int, query: Tensor) -> Tensor:
            state, row = out.states[layer], clip * num_frames
            refs = state.centres_px(targets[clip].input_size)[row, query]
            return self.mask_head(state.embeds[row, query], out.pixel[row], refs)

        matches = [criterion.match(layer, keys) for layer in layers]
        losses = criterion.frame_losses(layers, matches, keys, masks_of)
        trained = [
            self._trained(out, targets[b].input_size, b * num_frames, frames[b], match, criterion)
            for b, match in enumerate(matches[-1])
        ]
        return TrainingForward(losses, layers[-1], matches, trained, out.maps, targets)

    def _trained(
        self,
        out: FrameForward,
        size: tuple[int, int],
        first: int,
        targets: Sequence[FrameTargets],
        match: OtaMatch,
        criterion: IDOLCriterion,
    ) -> list[TrainedFrame]:
        """Frames of a clip, the first of which lies at ``first`` and is matched already."""
        last = out.states[-1]
        refs, rows = last.centres_px(size), slice(first, first + len(targets))
        logits, boxes = self.class_head(last.embeds[rows]), last.boxes[rows]
        others = criterion.match(Predictions(logits[1:], boxes[1:]), targets[1:])
        return [
            TrainedFrame(
                last.embeds[first + t],
                logits[t],
                boxes[t],
                out.pixel[first + t],
                refs[first + t],
                *stand_ins(pairs, logits.shape[1], len(target)),
                target,
            )
            for t, (pairs, target) in enumerate(zip([match, *others], targets, strict=True))
        ]

    def forward_pairs(
        self, clips: Sequence[Tensor], targets: Sequence[ClipTargets], criterion: IDOLCriterion
    ) -> TrainingForward:
        """As ``forward_training``; the first frame is the key frame, all others refer to it.

        As published, objects that the key frame does not show are left out of all frames.
        """
        targets = [clip.select(clip.valid[:, 0]) for clip in targets]
        out = self.forward_training(clips, targets, criterion)
        contrasts = [
            contrast(self, self.association_head, key, reference)
            for key, *references in out.frames
            for reference in references
        ]
        losses = association_losses(contrasts, choose=criterion.choose)
        return replace(out, losses=out.losses | losses)
