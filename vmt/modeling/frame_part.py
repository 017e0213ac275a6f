"""The dense part of networks that see frame by frame."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.dense_part import REFINER, DensePart, Port, refiner_maps
from vmt.modeling.frame_training import RefinableFrameModel

QUERIES = ("frames", "queries")
ASSOCIATION = "queries of successive frames are associated by their embeddings"


class FramePart(DensePart):
    """All queries of N frames, before frames are associated.

    Args:
        model: finds the objects of frames.
        head: (..., C) queries -> what frames are associated by; None: the queries themselves.
        left_out: see ``DensePart``.
    """

    inputs = (Port("frames", ("frames", "channels", "height", "width"), "RGB in [0, 255]"),)

    def __init__(
        self,
        model: RefinableFrameModel,
        head: nn.Module | None,
        left_out: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.left_out = (ASSOCIATION, *left_out)
        classes = "scores before the softmax, the last is no object"
        if not model.no_object:
            classes = "sigmoid scores before the sigmoid"
        self.outputs = (
            Port("class_logits", (*QUERIES, "classes"), classes),
            Port("mask_logits", (*QUERIES, "height", "width"), "stride 4, padding included"),
            Port("embeddings", (*QUERIES, "channels"), "by which frames are associated"),
            Port("query", (*QUERIES, "channels"), "what the class and mask heads take"),
            Port("pixel", ("frames", "channels", "height", "width"), "what masks are cut from"),
        )
        if model.has_boxes:
            self.outputs += (Port("boxes", (*QUERIES, "cxcywh"), "in [0, 1] of the frame"),)
        if model.has_refs:
            about = "where the mask head puts the object, in pixels"
            self.outputs += (Port("centres", (*QUERIES, "xy"), about),)
        if model.keeps_maps:
            backbone = cast(Backbone, model.get_submodule(model.backbone_path))
            self.outputs += refiner_maps(("frames",), 2 in backbone.channels)
            self.left_out += (REFINER,)

    def example(self, batch: int, num_frames: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See ``DensePart``; ``num_frames`` plays no part."""
        generator = torch.Generator().manual_seed(0)
        return (255 * torch.rand(batch, 3, *size, generator=generator),)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) RGB in [0, 255] -> ``outputs``."""
        model = self.model
        queries = model.find_queries(model.normalise(frames))
        outputs = (
            model.class_head(queries.embeds),
            model.all_masks(queries),
            queries.embeds if self.head is None else self.head(queries.embeds),
            queries.embeds,
            queries.pixel,
        )
        maps = queries.maps
        kept = (None,) * 3 if maps is None else (maps.fused, maps.stride4, maps.stride2)
        more = (queries.boxes, queries.refs, *kept)
        return outputs + tuple(tensor for tensor in more if tensor is not None)
