"""The parts of MaskDINO, and the steps from frames to queries with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.layers.deformable_encoder import Encoder, split_levels
from vmt.layers.pixel_map import PixelMap
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.frame_training import NoisyEmbeddings
from vmt.modeling.maskdino.criterion import PROPOSALS, BoxPredictions
from vmt.modeling.maskdino.decoder import Decoder, QueryStates
from vmt.modeling.maskdino.denoising import Denoising, Noise, NoisyQueries
from vmt.modeling.maskdino.heads import Heads
from vmt.modeling.maskdino.levels import LevelNeck, reverse_levels
from vmt.modeling.maskdino.options import MaskDINOOptions
from vmt.modeling.maskdino.proposals import Proposals, QuerySelection, first_anchors
from vmt.modeling.pixel_map_model import STRIDE, PixelMapModel
from vmt.modeling.video_model import ModelOptions
from vmt.structures.frame_targets import FrameTargets
from vmt.structures.track_window import FrameMaps


@dataclass(frozen=True)
class FrameFeatures:
    """What N frames become before queries are selected.

    Args:
        levels: L maps (N, C, h_l, w_l), in the encoder's order.
        memory: (N, S, C), in the decoder's order of levels.
        shapes: (H_l, W_l) per level, in the decoder's order.
        pixel: (N, mask_dim, h, w), stride 4.
        maps: what a refiner reads of the frames, where there is one.
    """

    levels: list[Tensor]
    memory: Tensor
    shapes: tuple[tuple[int, int], ...]
    pixel: Tensor
    maps: FrameMaps | None = None


@dataclass(frozen=True)
class FrameForward:
    """Everything that N frames went through at inference.

    Args:
        features: before the queries are selected.
        proposals: the selected tokens.
        anchor_logits: (N, Q, 4) that entered the decoder.
        states: of the queries, before the first layer and behind each.
    """

    features: FrameFeatures
    proposals: Proposals
    anchor_logits: Tensor
    states: list[QueryStates]


@dataclass(frozen=True)
class TrainingForward:
    """What N frames went through in training.

    Args:
        proposals: the selected tokens.
        states: before the first layer and behind each; the queries begin with the denoising ones.
        noisy: these queries, or None.
        pixel: (N, mask_dim, h, w), stride 4.
        maps: what a refiner reads of the frames, where there is one.
    """

    proposals: Proposals
    states: list[QueryStates]
    noisy: NoisyQueries | None
    pixel: Tensor
    maps: FrameMaps | None

    @property
    def num_noisy(self) -> int:
        """Denoising queries of a frame."""
        return 0 if self.noisy is None else len(self.noisy)


class Detector(PixelMapModel):
    """MaskDINO's parts and steps (arXiv:2206.02777); a method of ``meta_arch`` puts them in order.

    Boxes live in the padded frame.

    Args:
        backbone: gives the maps of strides 4 to 32.
        network: sizes and switches.
        options: see ``ModelOptions``.
    """

    def __init__(self, backbone: Backbone, network: MaskDINOOptions, options: ModelOptions) -> None:
        super().__init__(options)
        dim, num_classes = network.dim, len(options.label_space)
        self.embed_dim = dim
        self.box_init = network.box_init
        self.backbone = backbone
        self.neck = LevelNeck(backbone, network)
        self.encoder = Encoder(
            network.encoder_layers,
            dim,
            network.num_levels,
            network.num_heads,
            network.num_points,
            network.encoder_ffn_dim,
            network.dropout,
            cell_offset=0.0,
        )
        self.pixel_map = PixelMap(backbone.channels[STRIDE], dim, network.mask_dim)
        self.selection = QuerySelection(dim, network.num_queries)
        self.denoising = Denoising(dim, num_classes)
        self.decoder = Decoder(network)
        self.heads = Heads(dim, num_classes, network.mask_dim)

    def encode(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, H, W), normalised and padded."""
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        memory, layout = self.encoder(self.neck(maps), None)
        levels = split_levels(memory, layout)
        finest = levels[0] if self.neck.fine_first else levels[-1]
        pixel = self.pixel_map(maps[STRIDE], finest)
        kept = None
        if self.keeps_maps:
            kept = FrameMaps.of(frames, maps, self.neck.level_of(levels, 8))
        return FrameFeatures(levels, *reverse_levels(memory, layout), pixel, kept)

    def first_anchors(self, proposals: Proposals, pixel: Tensor, box_init: str) -> Tensor:
        """Anchors (N, Q, 4) in log-odds that enter the decoder."""
        masks = None
        if box_init != "regressed":
            with torch.no_grad():
                masks = self.heads.masks(proposals.content, pixel)
        return first_anchors(proposals.box_logits, masks, box_init)

    def forward_frames(self, frames: Tensor, box_init: str) -> FrameForward:
        """The forward pass of inference.

        Args:
            frames: (N, 3, H, W), normalised and padded.
            box_init: see ``first_anchors``.
        """
        features = self.encode(frames)
        memory, shapes = features.memory, features.shapes
        proposals = self.selection(memory, shapes, self.heads)
        anchors = self.first_anchors(proposals, features.pixel, box_init)
        states = self.decoder(proposals.content, anchors, memory, shapes, self.heads)
        return FrameForward(features, proposals, anchors, states)

    def forward_training(
        self, frames: Tensor, targets: Sequence[FrameTargets], noise: Noise, box_init: str
    ) -> TrainingForward:
        """The forward pass of a training step, with denoising queries before the others.

        Args:
            frames: (N, 3, H, W), normalised and padded.
            targets: N.
            noise: of the denoising queries.
            box_init: see ``first_anchors``.
        """
        features = self.encode(frames)
        memory, shapes, pixel = features.memory, features.shapes, features.pixel
        proposals = self.selection(memory, shapes, self.heads)
        content, visible = proposals.content.detach(), None
        anchors = self.first_anchors(proposals, pixel, box_init)
        noisy = self.denoising(targets, noise)
        if noisy is None:  # every process has gradients of the same parameters
            content = content + 0.0 * self.denoising.labels.weight.sum()
        else:
            visible = noisy.visible(content.shape[1])
            content = torch.cat([noisy.content, content], 1)
            anchors = torch.cat([noisy.anchor_logits, anchors], 1)
        states = self.decoder(content, anchors, memory, shapes, self.heads, visible)
        return TrainingForward(proposals, states, noisy, pixel, features.maps)

    def predictions(self, out: TrainingForward, frames: slice) -> dict[str, BoxPredictions]:
        """What the heads say of some frames, by suffix of the losses, the last layer's first.

        All but the proposals' begin with the denoising queries.
        """
        *before, last = [self._predictions(s.embeds[frames], s.boxes[frames]) for s in out.states]
        outputs = {"": last} | {f"_{index}": output for index, output in enumerate(before)}
        proposals = out.proposals
        outputs[PROPOSALS] = self._predictions(proposals.content[frames], proposals.boxes[frames])
        return outputs

    def last_layer(self, out: TrainingForward) -> tuple[Tensor, BoxPredictions]:
        """Embeddings (N, Q, C) behind the last layer, and what the heads say of them."""
        last, first = out.states[-1], out.num_noisy
        embeds = last.embeds[:, first:]
        return embeds, self._predictions(embeds, last.boxes[:, first:])

    def noisy_embeddings(self, out: TrainingForward, frame: int) -> NoisyEmbeddings | None:
        """Contrastive denoising queries of a frame behind the last layer."""
        noisy = out.noisy
        if noisy is None or noisy.present is None:
            return None
        shape = noisy.groups, 2, noisy.slots
        embeds = out.states[-1].embeds[frame, : len(noisy)].unflatten(0, shape)
        return NoisyEmbeddings(embeds, noisy.present[frame].view(shape)[0, 0])

    def _predictions(self, embeds: Tensor, boxes: Tensor) -> BoxPredictions:
        return BoxPredictions(self.heads.classes(embeds), self.heads.kernels(embeds), boxes)
