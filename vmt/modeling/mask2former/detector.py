"""The parts of Mask2Former, and the steps from frames to queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Encoder, split_levels
from vmt.layers.pixel_map import PixelMap
from vmt.layers.projection import Projection
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.criteria.ota import ReferencePairs, SimOta
from vmt.modeling.criteria.point_criterion import Predictions
from vmt.modeling.frame_training import TrainedFrame
from vmt.modeling.mask2former.decoder import STRIDES, Decoder
from vmt.modeling.mask2former.heads import Heads
from vmt.modeling.mask2former.options import Mask2FormerOptions
from vmt.modeling.pixel_map_model import STRIDE, PixelMapModel
from vmt.modeling.video_model import ModelOptions
from vmt.structures.track_window import FrameMaps


@dataclass(frozen=True)
class FrameForward:
    """What N frames go through.

    Args:
        levels: a map (N, C, h_l, w_l) per stride of ``decoder.STRIDES``.
        pixel: (N, mask_dim, h, w), stride 4.
        embeds: (N, Q, C) of the learned queries, then behind each layer.
        maps: what a refiner reads of the frames, where there is one.
    """

    levels: list[Tensor]
    pixel: Tensor
    embeds: list[Tensor]
    maps: FrameMaps | None = None


class Detector(PixelMapModel):
    """Mask2Former's parts and steps (arXiv:2112.01527); ``meta_arch`` puts them in order.

    Args:
        backbone: gives the maps of strides 4 to 32.
        network: sizes.
        options: see ``ModelOptions``.
    """

    no_object = True

    def __init__(
        self, backbone: Backbone, network: Mask2FormerOptions, options: ModelOptions
    ) -> None:
        super().__init__(options)
        dim = self.embed_dim = network.dim
        self.backbone = backbone
        self.neck = nn.ModuleList(Projection(backbone.channels[s], dim, 1) for s in STRIDES)
        self.encoder = Encoder(
            network.encoder_layers,
            dim,
            len(STRIDES),
            network.num_heads,
            network.num_points,
            network.encoder_ffn_dim,
            network.dropout,
            cell_offset=0.0,
        )
        self.pixel_map = PixelMap(backbone.channels[STRIDE], dim, network.mask_dim)
        self.decoder = Decoder(network)
        self.heads = Heads(dim, len(options.label_space), network.mask_dim)

    def forward_frames(self, frames: Tensor) -> FrameForward:
        """(N, 3, H, W), normalised and padded."""
        maps = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        projected = [layer(maps[s]) for layer, s in zip(self.neck, STRIDES, strict=True)]
        levels = split_levels(*self.encoder(projected, None))
        pixel = self.pixel_map(maps[STRIDE], levels[-1])
        kept = None
        if self.keeps_maps:
            kept = FrameMaps.of(frames, maps, levels[STRIDES.index(8)])
        return FrameForward(levels, pixel, self.decoder(levels, pixel, self.heads), kept)

    def predictions(self, embeds: list[Tensor]) -> dict[str, Predictions]:
        """What the heads say of every output, by suffix of its losses; the last layer's first."""
        *before, last = [
            Predictions(self.heads.classes(output), self.heads.kernels(output)) for output in embeds
        ]
        return {"": last} | {f"_{index}": output for index, output in enumerate(before)}

    @torch.no_grad()
    def overlaps(self, frame: TrainedFrame) -> Tensor:
        """See ``RefinableFrameModel``; of masks in the cells of the pixel map."""
        inside = (self.mask_head(frame.embeds, frame.pixel, None) > 0).flatten(1).float()
        step = slice(STRIDE // 2, None, STRIDE)
        truth = frame.target.masks[:, step, step].flatten(1).float()
        both = inside @ truth.T
        union = inside.sum(1, keepdim=True) + truth.sum(1) - both
        return both / union.clamp(min=1)

    @torch.no_grad()
    def reference_pairs(self, frame: TrainedFrame) -> ReferencePairs:
        """See ``RefinableFrameModel``: IDOL's rules, with masks where these have boxes.

        The cost of a pair is minus the probability of the class and minus the IoU of the masks,
        with the weights of classes and boxes there; no place plays a part.
        """
        iou, ota = self.overlaps(frame), SimOta()
        probs = self.class_probs(frame)[:, frame.target.labels]
        return ota.pairs_of(-ota.class_cost * probs - ota.giou_cost * iou, iou)
