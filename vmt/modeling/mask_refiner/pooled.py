"""Tracklets cut out of their frames, and a query pooled under the mask: no detector is needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.backbones.base import Backbone
from vmt.modeling.dense_part import DensePart, Port
from vmt.modeling.mask_refiner.coarseness import Coarseness, pool
from vmt.modeling.mask_refiner.prompt import STRIDE, STRIDES, prompt_of
from vmt.modeling.mask_refiner.pyramid import Detail, build_fuse, build_laterals, sum_maps
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.video_model import MaskRefinerModel, ModelOptions
from vmt.ops.colour_cue import colour_cues
from vmt.ops.crops import DIVISOR, TubeCrop, follow
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.device import constant
from vmt.utils.errors import ConfigError

#: Surroundings that are cut out on each side: share of the object's longer side, and least number
#: of pixels, wider than any error of a coarse mask.
MARGIN, MIN_MARGIN_PX = 0.1, 24
IN_FRAMES = ("frames", "channels", "height", "width")
#: Share of all votes that there could be from which they count as an opinion.
LEAST_VOTES = 0.25


@dataclass(frozen=True)
class CutOuts:
    """How objects are cut out and what is put beside their pixels.

    Args:
        sizes: shortest and longest side in pixels, see ``follow``.
        colour_radii_px: of ``colour_cues``; none: no cues.
        votes_reach: frames on each side that vote, see ``vmt.ops.flow_votes``; 0: none.
        estimates_coarseness: with ``Coarseness``.
        detail_widths: of ``Detail``; none: without.
    """

    sizes: tuple[int, int]
    colour_radii_px: tuple[int, ...] = ()
    votes_reach: int = 0
    estimates_coarseness: bool = False
    detail_widths: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """Of what the backbone reads."""
        return 4 + 2 * bool(self.votes_reach) + len(self.colour_radii_px)


class MaskPoolQuery(nn.Module):
    """The query of a tracklet from its mask: what is inside, and what surrounds it.

    Args:
        dim: channels of the features and of the query.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        """Pool over space and time.

        Args:
            features: (T, C, h, w).
            inside: (T, h, w) in [0, 1], share of each cell that the mask covers.

        Returns:
            (1, C).
        """
        pooled = [pool(features, weight) for weight in (inside, 1 - inside)]
        query: Tensor = self.mlp(torch.cat(pooled)[None])
        return query


@dataclass(frozen=True)
class CutOutFeatures:
    """What a refiner reads of a tracklet that is cut out of T frames.

    Args:
        stride4: (T, C4, h4, w4) of the backbone, or of ``Detail``.
        stride2: (T, embed_dim, h2, w2).
        fused: (T, C, h8, w8).
        query: (1, C), pooled under the mask.
        read: (T, channels, h, w), what the backbone read.
        coarseness: (2,) of ``Coarseness``, where there is one.
    """

    stride4: Tensor
    stride2: Tensor
    fused: Tensor
    query: Tensor
    read: Tensor
    coarseness: Tensor | None


class CutOutModel(MaskRefinerModel):
    """Encodes a tracklet that is cut out of every frame: RGB, the coarse mask, votes, colour cues.

    Args:
        options: see ``ModelOptions``.
        backbone: with four input channels, two more with votes, one more per colour cue, and a
            stride-2 map.
        dim: channels of the stride-8 map and of the query.
        embed_dim: channels of the refiner's maps.
        cut_outs: see ``CutOuts``.
    """

    def __init__(
        self, options: ModelOptions, backbone: Backbone, dim: int, embed_dim: int, cut_outs: CutOuts
    ) -> None:
        super().__init__(options)
        self.backbone = backbone
        self.laterals = build_laterals(backbone.channels, dim)
        self.fuse = build_fuse(dim)
        self.detail = (
            Detail(cut_outs.channels, cut_outs.detail_widths, dim)
            if cut_outs.detail_widths
            else None
        )
        self.stride2 = nn.Conv2d((self.detail or backbone).channels[2], embed_dim, 1)
        self.query = MaskPoolQuery(dim)
        self.coarseness = Coarseness(dim) if cut_outs.estimates_coarseness else None
        self.cut_outs = cut_outs
        self.votes_reach = cut_outs.votes_reach

    def cut_out(self, coarse: Tensor, votes: Tensor | None = None) -> TubeCrop:
        """Windows that follow the object of (T, H, W) bool, with a pixel in every frame.

        They have room for what votes, (T, 2, H, W) uint8, find beside it.
        """
        if votes is not None:
            coarse = coarse | ((votes[:, 0] > 127) & (votes[:, 1] > 255 * LEAST_VOTES))
        return follow(coarse, MARGIN, MIN_MARGIN_PX, *self.cut_outs.sizes)

    def encode(self, pixels: Tensor, share: Tensor, votes: Tensor | None = None) -> CutOutFeatures:
        """One tracklet, cut out.

        Args:
            pixels: (T, 3, h, w), normalised.
            share: (T, 1, h, w) in [0, 1], how much of a pixel the mask covers.
            votes: (T, 2, h, w) in [0, 1], share and number of ``vmt.ops.flow_votes``; None: there
                are none.
        """
        planes = [pixels, 2 * share - 1]
        if self.votes_reach:
            votes = torch.zeros_like(pixels[:, :2]) if votes is None else votes
            told, weight = votes.split(1, dim=1)
            planes += [(2 * told - 1) * weight, weight]
        planes.append(colour_cues(pixels, share, self.cut_outs.colour_radii_px))
        read = torch.cat(planes, dim=1)
        maps = self.backbone(read)
        fused, inside = self.fuse(sum_maps(maps, self.laterals)), F.avg_pool2d(share, STRIDE)[:, 0]
        if self.detail is not None:
            maps, fused = self.detail(read, fused)
        coarseness = None
        if self.coarseness is not None:
            fused, coarseness = self.coarseness(fused, inside)
        query = self.query(fused, inside)
        return CutOutFeatures(maps[4], self.stride2(maps[2]), fused, query, read, coarseness)

    def dense_part(self) -> CutOutPart:
        """See ``VideoModel``; up to what a refiner reads."""
        return CutOutPart(self)

    def refiner_input(
        self,
        frames: Tensor,
        coarse: Tensor,
        crop: TubeCrop,
        masks_gt: Tensor | None = None,
        votes: Tensor | None = None,
    ) -> tuple[RefinerInput, Tensor | None]:
        """One tracklet as a refiner reads it.

        Args:
            frames: (T, 3, H, W) RGB in [0, 255].
            coarse: (T, H, W) bool, on the device of the frames or in the host's memory.
            crop: see ``cut_out``.
            masks_gt: (1, T, h, w) bool, cut out, in training.
            votes: (T, 2, H, W) uint8 of ``vmt.ops.flow_votes``, likewise; None: there are none.

        Returns:
            The input, and (2,) of ``Coarseness`` or None.
        """
        pixels = crop.cut(frames, self.pixel_mean)  # (T, 3, h, w)
        pixels = (pixels - self.pixel_mean) / self.pixel_std
        share = crop.cut(coarse[:, None], device=pixels.device)  # (T, 1, h, w)
        told = None if votes is None else crop.cut(votes, device=pixels.device) / 255
        features = self.encode(pixels, share, told)
        second = None
        if told is not None:
            second = torch.where(told[:, 1:] > LEAST_VOTES, told[:, :1], share)
        boxes_px = masks_to_boxes(share[None, :, 0] > 0.5)  # (1, T, 4) xyxy
        boxes = xyxy_to_cxcywh(boxes_px / constant(crop.size[::-1] * 2, boxes_px))
        prompt = prompt_of(share, len(STRIDES), second)
        given = RefinerInput(
            frames=features.read if self.votes_reach else pixels,
            stride4=features.stride4,
            stride2=features.stride2,
            fused=features.fused,
            coarse_logits=prompt.coarse_logits,
            query=features.query,
            centres_px=boxes[..., :2] * constant(crop.size[::-1], boxes),
            boxes_cxcywh=boxes,
            frame_size=crop.size,
            masks_gt=masks_gt,
            given=prompt.given,
            coarse_levels=prompt.coarse_levels,
        )
        return given, features.coarseness


#: What a network that asks for votes reads too, and what its refiner then reads as frames.
VOTES = Port("votes", IN_FRAMES, "in [0, 1], share and number of the votes of neighbouring frames")
READ = Port("read", IN_FRAMES, "what the backbone read; to the refiner these are the frames")
COARSENESS = Port(
    "coarseness",
    ("tracklets", "numbers"),
    "estimates of log(1 + distance between contours in px), and of the same of how much too wide",
)


ODDS = (
    "the odds of the given labels, which follow from coarseness and MODEL.MASK_REFINER.PRIOR, are "
    "added to the refiner's"
)


class CutOutPart(DensePart):
    """One tracklet in T cut-outs, up to what a refiner reads.

    Args:
        model: the network.
    """

    inputs: tuple[Port, ...] = (
        Port("frames", IN_FRAMES, "RGB in [0, 255], cut out around the object"),
        Port("share", IN_FRAMES, "in [0, 1], how much of a pixel the coarse mask covers"),
    )
    outputs: tuple[Port, ...] = (
        Port("stride4", IN_FRAMES, "of the backbone"),
        Port("stride2", IN_FRAMES, "of the backbone, projected"),
        Port("fused", IN_FRAMES, "stride 8"),
        Port("query", ("tracklets", "channels"), "pooled under the mask; of one tracklet"),
    )
    left_out: tuple[str, ...] = (
        "objects are cut out before it, at a size that their masks decide",
        "the refiner works on lists of points, whose length the masks decide; it reads all "
        "outputs and the coarse mask",
    )

    def __init__(self, model: CutOutModel) -> None:
        super().__init__()
        self.model = model
        if model.votes_reach:
            self.inputs, self.outputs = (*self.inputs, VOTES), (*self.outputs, READ)
        if model.coarseness is not None:
            self.outputs = (*self.outputs, COARSENESS)
            self.left_out = (*self.left_out, ODDS)

    def example(self, batch: int, num_frames: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See ``DensePart``; ``batch`` is the number of frames."""
        if size[0] % DIVISOR or size[1] % DIVISOR:
            raise ConfigError(
                f"--size {size[0]}x{size[1]}: the sides of cut-outs are multiples of {DIVISOR}."
            )
        generator = torch.Generator().manual_seed(0)
        frames = 255 * torch.rand(batch, 3, *size, generator=generator)
        share = torch.zeros(batch, 1, *size)
        share[..., size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 1.0
        if not self.model.votes_reach:
            return frames, share
        return frames, share, torch.cat([share, torch.ones_like(share)], dim=1)

    def forward(
        self, frames: Tensor, share: Tensor, votes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """(T, 3, h, w) RGB in [0, 255], (T, 1, h, w), perhaps (T, 2, h, w) -> ``outputs``."""
        features = self.model.encode(self.model.normalise(frames), share, votes)
        outputs: tuple[Tensor, ...] = (
            *(features.stride4, features.stride2, features.fused),
            features.query,
        )
        if self.model.votes_reach:
            outputs = (*outputs, features.read)
        if features.coarseness is not None:
            outputs = (*outputs, features.coarseness[None])
        return outputs


def cut_targets(masks_gt: Tensor, crop: TubeCrop) -> ClipTargets:
    """The annotation of one tracklet, (T, H, W) bool, as it is in its cut-outs."""
    masks = (crop.cut(masks_gt[:, None])[:, 0] >= 0.5)[None]  # (1, T, h, w)
    boxes_px = masks_to_boxes(masks)
    return ClipTargets(
        labels=torch.zeros(1, dtype=torch.int64, device=masks.device),
        boxes_cxcywh=xyxy_to_cxcywh(boxes_px / constant(crop.size[::-1] * 2, boxes_px)).clamp(
            min=1e-6
        ),
        masks=masks,
        valid=masks.flatten(2).any(2),
    )
