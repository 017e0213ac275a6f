"""The parts of Mask2Former, and the steps from frames to queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.layers.deformable_encoder import Encoder, split_levels
from vmt.layers.pixel_map import PixelMap
from vmt.layers.projection import Projection
from vmt.modeling.backbones.base import Backbone
from vmt.modeling.criteria.point_criterion import Predictions
from vmt.modeling.mask2former.decoder import STRIDES, Decoder
from vmt.modeling.mask2former.heads import Heads
from vmt.modeling.mask2former.options import Mask2FormerOptions
from vmt.modeling.video_model import FrameModel, ModelOptions
from vmt.structures.track_window import FrameMaps

#: Input pixels per cell of the pixel map, and so of the masks.
STRIDE = 4


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


class Detector(FrameModel):
    """Mask2Former's parts and steps (arXiv:2112.01527); ``meta_arch`` puts them in order.

    As published it ignores padding.

    Args:
        backbone: gives the maps of strides 4 to 32.
        network: sizes.
        options: see ``ModelOptions``.
    """

    def __init__(
        self, backbone: Backbone, network: Mask2FormerOptions, options: ModelOptions
    ) -> None:
        super().__init__(options)
        dim = network.dim
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

    def stages(self) -> list[nn.Module]:
        """Layers of encoder and decoder."""
        return [*self.encoder.layers, *self.decoder.layers]

    def lr_groups(self) -> dict[str, str]:
        """The backbone alone learns more slowly, as published."""
        return {"backbone.": "BACKBONE_FACTOR"}

    def undecayed(self) -> set[str]:
        """Norms and embeddings have no weight decay, as published."""
        return super().undecayed() | {
            f"{name}.{parameter}"
            for name, part in self.named_modules()
            if isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.Embedding))
            for parameter, _ in part.named_parameters(recurse=False)
        }

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

    def class_head(self, embeds: Tensor) -> Tensor:
        """See ``RefinableFrameModel``; one column more, "no object"."""
        return self.heads.classes(embeds)

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        """See ``RefinableFrameModel``; ``refs`` play no part."""
        return self.heads.masks(embeds, pixel)
