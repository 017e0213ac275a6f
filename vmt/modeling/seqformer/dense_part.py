"""SeqFormer's network up to the masks of all queries, and the maps that a refiner reads of it."""

from __future__ import annotations

import torch
from torch import Tensor

from vmt.layers.dynamic_conv import split_dynamic_parameters
from vmt.modeling.dense_part import REFINER, DensePart, Port, refiner_maps
from vmt.modeling.seqformer.detector import Detector
from vmt.ops.frames import fold_frames, unfold_frames

QUERIES = ("clips", "queries")
BY_FRAME = ("clips", "queries", "frames")
IN_FRAMES = ("clips", "frames", "channels", "height", "width")


class ClipPart(DensePart):
    """All queries of B clips, none of them selected.

    Args:
        model: SeqFormer, or what derives from it.
    """

    inputs = (Port("frames", IN_FRAMES, "RGB in [0, 255]"),)

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        self.outputs = (
            Port("class_logits", (*QUERIES, "classes"), "sigmoid scores before the sigmoid"),
            Port("boxes", (*BY_FRAME, "cxcywh"), "in [0, 1] of the frame"),
            Port("mask_logits", (*BY_FRAME, "height", "width"), "stride 8"),
            Port("query", (*QUERIES, "channels"), "instance queries, which join windows"),
            Port("centres", (*BY_FRAME, "xy"), "where the mask head puts the instance, in pixels"),
            Port("box_query", (*BY_FRAME, "channels"), "one query per frame"),
        )
        self.left_out = ("the best queries of a clip are selected by their class scores",)
        if model.keeps_fine_maps:
            self.outputs += refiner_maps(("clips", "frames"), 2 in model.backbone.channels)
            self.left_out += (REFINER,)

    def example(self, batch: int, num_frames: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See ``DensePart``."""
        generator = torch.Generator().manual_seed(0)
        return (255 * torch.rand(batch, num_frames, 3, *size, generator=generator),)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(B, T, 3, H, W) RGB in [0, 255] -> ``outputs``."""
        model, num_frames = self.model, int(frames.shape[1])
        size = frames.new_tensor([frames.shape[-1], frames.shape[-2]])
        features = model.encode(fold_frames(model.normalise(frames)), None, num_frames)
        state = model.decode(features, num_frames)[-1]
        centres = state.centres.transpose(1, 2) * size  # (B, Q, T, 2)
        maps = unfold_frames(features.mask_features, num_frames)
        outputs = (
            model.class_logits(-1, state.query),
            state.boxes.transpose(1, 2),
            self._masks(state.query, centres, maps),
            state.query,
            centres,
            state.box_query.transpose(1, 2),
        )
        if not model.keeps_fine_maps:
            return outputs
        kept = (features.fused, features.stride4, features.stride2)
        return outputs + tuple(unfold_frames(x, num_frames) for x in kept if x is not None)

    def _masks(self, query: Tensor, centres_px: Tensor, maps: Tensor) -> Tensor:
        """(B, Q, C), (B, Q, T, 2) and (B, T, channels, h, w) -> logits (B, Q, T, h, w)."""
        head, num_queries = self.model.coarse, int(query.shape[1])
        parameters = head.controller(query.flatten(0, 1))
        layers = split_dynamic_parameters(parameters, head.widths)
        places = centres_px.flatten(0, 1)  # (B*Q, T, 2)
        masks = [
            head.frame_logits(layers, places[:, t], maps[:, t].repeat_interleave(num_queries, 0))
            for t in range(int(maps.shape[1]))
        ]
        stacked: Tensor = torch.stack(masks, 1).unflatten(0, (-1, num_queries))
        return stacked
