"""The refiner whose weights were published with VMT: a band around mask edges, frame by frame.

It is *not* the method of the paper (arXiv:2207.14012): no quadtree, no attention across frames, no
instance guidance (docs/reference/released_code.md#the-network). This file follows the released
computation. What differs is only how: frames go through the convolutions together, attention never
builds its weight matrix, and the convolutions over features that all instances share run once
instead of once per instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from vmt.layers.dynamic_conv import (
    apply_dynamic_layers,
    num_dynamic_parameters,
    split_dynamic_parameters,
)
from vmt.layers.mlp import controller
from vmt.layers.position import sine_position_of_cells
from vmt.layers.transformer import EncoderLayer
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerOutput
from vmt.modeling.refiners.criterion import RefinerCriterion
from vmt.modeling.registry import REFINERS, register
from vmt.ops.frames import frame_chunks
from vmt.ops.resize import cell_centres_px, nearest
from vmt.utils.device import constant
from vmt.utils.precision import no_autocast

#: Widths of the dynamic layers of both stages.
WIDTHS = (11, 8, 8, 1)
#: Cells between the taps of the edge kernel; two passes mark 6 cells on each side of an edge.
EDGE_DILATION = 3
#: Dilations of the decoder's branches, in the order of the released file.
BRANCH_DILATIONS = (3, 5, 7, 1)
BRANCH_WIDTH = 32
RGB_WIDTH = 32
#: Channels a branch reads beside the shared ones: two coarse maps, box mask, dx, dy.
INSTANCE_CHANNELS = 5


@register(REFINERS, "dense_band")
class DenseBand(Refiner):
    """Stage 2 re-predicts masks at stride 4; stage 3 refines the band around them at stride 2.

    Args:
        stride4_dim: channels of the backbone's stride-4 map.
        has_stride2: whether the backbone has a stride-2 map; else the stride-4 map is upsampled
            and compressed in its place, as the released Swin model does.
        dim: channels of the queries and of the fused map.
        embed_dim: width of the refinement transformer and of the stride-2 features.
        num_heads: of the refinement transformer.
        num_layers: of the refinement transformer.
        ffn_dim: of the refinement transformer.
        dropout: of the refinement transformer, in training.
        max_points: most points refined per frame; above it those nearest to a contour are kept
            (the release draws at random: docs/reference/released_code.md#points).
        offset_unit_px: pixels that count as 1 in the offsets to the instance's centre which the
            dynamic layers read; 1 as in the released code.
        train_maps: let gradients reach the backbone's maps; the released code does not.
        frame_chunk: frames at once.
    """

    points_are_per = "a frame"

    def __init__(
        self,
        stride4_dim: int,
        has_stride2: bool,
        dim: int = 256,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 3,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        max_points: int = 12000,
        offset_unit_px: float = 1.0,
        train_maps: bool = False,
        frame_chunk: int = 4,
    ) -> None:
        super().__init__()
        self.max_points = max_points
        self.offset_unit_px = offset_unit_px
        self.train_maps = train_maps
        self.frame_chunk = frame_chunk
        self.stage2_controller = controller(dim, num_dynamic_parameters(WIDTHS))
        self.controller = controller(dim, num_dynamic_parameters(WIDTHS))
        self.fuse_s4 = nn.Conv2d(dim, stride4_dim, 3, padding=1)
        self.reduce_s4 = nn.Conv2d(stride4_dim, embed_dim, 3, padding=1)
        self.stage2_reduce = nn.Conv2d(embed_dim, WIDTHS[0] - 3, 3, padding=1)
        self.lift_s2 = nn.Conv2d(embed_dim, embed_dim, 1)
        self.compress = None if has_stride2 else nn.Conv2d(stride4_dim, embed_dim, 1)
        self.rgb = nn.Sequential(
            nn.Conv2d(3, RGB_WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(RGB_WIDTH, embed_dim, 1),
            nn.ReLU(),
            nn.Conv2d(embed_dim, embed_dim, 1),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    embed_dim + INSTANCE_CHANNELS, BRANCH_WIDTH, 3, padding=gap, dilation=gap
                ),
                nn.ReLU(),
                nn.Conv2d(BRANCH_WIDTH, BRANCH_WIDTH, 1),
                nn.ReLU(),
                nn.Conv2d(BRANCH_WIDTH, WIDTHS[0], 1),
                nn.ReLU(),
            )
            for gap in BRANCH_DILATIONS
        )
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            EncoderLayer(embed_dim, num_heads, ffn_dim, dropout) for _ in range(num_layers)
        )
        self.embed_dim = embed_dim

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: Mapping[int, int], dim: int) -> DenseBand:
        """Build from ``MODEL.REFINER``; see ``Refiner.from_config``."""
        node = cfg.MODEL.REFINER
        return cls(
            stride4_dim=channels[4],
            has_stride2=channels.get(2) == node.EMBED_DIM,
            dim=dim,
            embed_dim=node.EMBED_DIM,
            num_heads=node.NUM_HEADS,
            num_layers=node.NUM_LAYERS,
            ffn_dim=node.FFN_DIM,
            dropout=node.DROPOUT,
            max_points=node.MAX_POINTS,
            offset_unit_px=node.OFFSET_UNIT_PX,
            train_maps=node.TRAIN_MAPS,
            frame_chunk=cfg.TEST.FRAME_CHUNK,
        )

    @classmethod
    def criterion(cls, cfg: CfgNode) -> RefinerCriterion:
        """The losses that train it, from ``MODEL.LOSS``."""
        loss = cfg.MODEL.LOSS
        return RefinerCriterion(
            loss.REFINE_MASK_WEIGHT,
            loss.REFINE_DICE_WEIGHT,
            loss.REFINE_BOUNDARY_WEIGHT,
            loss.REFINE_STAGE_WEIGHT,
            focal_alpha=loss.FOCAL_ALPHA,
            focal_gamma=loss.FOCAL_GAMMA,
        )

    def forward(self, inputs: RefinerInput) -> RefinerOutput:
        """Refined masks of stride 2. Gradients reach queries and ``fused`` only.

        The released code detaches backbone maps (``train_maps`` lets gradients reach them), boxes,
        centres and the masks of earlier stages.
        """
        stage2 = split_dynamic_parameters(self.stage2_controller(inputs.query), WIDTHS)
        stage3 = split_dynamic_parameters(self.controller(inputs.query), WIDTHS)
        refined, stage = [], []
        for rows in frame_chunks(len(inputs.frames), self.frame_chunk):
            masks, masks_s4 = self._refine_chunk(inputs, rows, stage2, stage3)
            refined.append(masks)
            stage.append(masks_s4)
        return RefinerOutput(torch.cat(refined, 1), 2, torch.cat(stage, 1))

    def _map(self, backbone_map: Tensor) -> Tensor:
        return backbone_map if self.train_maps else backbone_map.detach()

    def _refine_chunk(
        self,
        inputs: RefinerInput,
        rows: slice,
        stage2: Sequence[tuple[Tensor, Tensor]],
        stage3: Sequence[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Some frames: (N, t, h2, w2) and (N, t, h4, w4) logits."""
        stride4 = self._map(inputs.stride4[rows])
        centres_px = inputs.centres_px[:, rows].detach()
        coarse = inputs.coarse_logits[:, rows].detach().sigmoid()
        features = self._stride4_features(inputs.fused[rows], stride4)
        logits_s4 = self._stage2(features, coarse, centres_px, stage2)
        probs_s4 = logits_s4.detach().sigmoid()

        if self.compress is None:
            assert inputs.stride2 is not None, "the backbone declared a stride-2 map"
            high = self._map(inputs.stride2[rows])
        else:
            h4, w4 = stride4.shape[-2:]
            high = nearest(self.compress(stride4), (2 * h4, 2 * w4))
        size = (int(high.shape[-2]), int(high.shape[-1]))
        pixels = nearest(inputs.frames[rows], size).contiguous(memory_format=torch.channels_last)
        high = high + self.rgb(pixels)
        base = nearest(F.relu(self.lift_s2(features)), size)
        # One binary map per frame: the published network does not tell instances apart here.
        union = (nearest(probs_s4, size) > 0.5).any(0)  # (t, h2, w2)
        band = edge_band(union)
        y = base + band[:, None] * high
        y = torch.stack(
            [
                self._attend(frame, mask, edge)
                for frame, mask, edge in zip(y, union, band, strict=True)
            ]
        )
        boxes = inputs.boxes_cxcywh[:, rows].detach()
        out = [
            self._decode(
                y[t],
                torch.stack([nearest(p[:, t, None], size)[:, 0] for p in (probs_s4, coarse)], 1),
                box_masks(boxes[:, t], size),
                centres_px[:, t],
                stage3,
            )
            for t in range(len(y))
        ]
        return torch.stack(out, 1), logits_s4

    def _stride4_features(self, fused: Tensor, stride4: Tensor) -> Tensor:
        """Fused stride-8 map and raw stride-4 map -> (t, embed_dim, h4, w4)."""
        size = (int(stride4.shape[-2]), int(stride4.shape[-1]))
        lifted = nearest(F.relu(self.fuse_s4(fused)), size)
        return F.relu(self.reduce_s4(stride4 + lifted))

    def _stage2(
        self,
        features: Tensor,
        coarse: Tensor,
        centres_px: Tensor,
        layers: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Masks at stride 4: (N, t, h4, w4) logits."""
        size = (int(features.shape[-2]), int(features.shape[-1]))
        reduced = F.relu(self.stage2_reduce(features))
        previous = nearest(coarse, size)
        cells = cell_centres_px(size, 4, centres_px)
        out = []
        for t, frame in enumerate(reduced):
            offsets = (centres_px[:, t, :, None, None] - cells) / self.offset_unit_px
            shared = frame.expand(len(previous), -1, -1, -1)
            stacked = torch.cat([offsets, previous[:, t, None], shared], dim=1)
            out.append(apply_dynamic_layers(stacked, layers)[:, 0])
        return torch.stack(out, 1)

    def _attend(self, y: Tensor, union: Tensor, band: Tensor) -> Tensor:
        """Refinement transformer over the band of one frame; (C, h2, w2) -> (C, h2, w2)."""
        index = band_points(union, band, self.max_points)
        self.count_points(int(band.sum()), len(index))
        if not len(index):
            return y
        size = (int(y.shape[-2]), int(y.shape[-1]))
        flat = y.flatten(1)  # (C, cells)
        tokens = flat[:, index].T[None]  # (1, P, C)
        position = sine_position_of_cells(
            index // size[1], index % size[1], size, self.embed_dim // 2, cell_offset=0.0
        ).to(tokens.dtype)
        x = tokens
        for layer in self.encoder.get_submodule("layers").children():
            x = layer(x, position)
        return flat.index_add(1, index, x[0].T.to(flat.dtype)).view_as(y)

    def _decode(
        self,
        y: Tensor,
        probs: Tensor,
        boxes: Tensor,
        centres_px: Tensor,
        layers: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Masks of one frame at stride 2.

        A branch convolves [y, probs, boxes, dx, dy]; by linearity the part of ``y``, 64 of the 69
        channels, is computed once for all N instances.

        Args:
            y: (embed_dim, h2, w2).
            probs: (N, 2, h2, w2) masks of stage 2 and of the mask head.
            boxes: (N, h2, w2) bool.
            centres_px: (N, 2).
            layers: dynamic layers of the N instances.

        Returns:
            (N, h2, w2) logits.
        """
        size = (int(y.shape[-2]), int(y.shape[-1]))
        offsets = centres_px[:, :, None, None] - cell_centres_px(size, 2, centres_px)
        offsets = offsets / self.offset_unit_px
        own = torch.cat([probs, boxes[:, None], offsets], dim=1)
        own = own.contiguous(memory_format=torch.channels_last)
        y = y[None].contiguous(memory_format=torch.channels_last)
        total: Tensor | None = None
        for branch in self.branches:
            assert isinstance(branch, nn.Sequential), "a branch is a chain of layers"
            first = branch[0]
            assert isinstance(first, nn.Conv2d), "a branch starts with its dilated convolution"
            weight_y, weight_own = first.weight.split([self.embed_dim, INSTANCE_CHANNELS], dim=1)
            gap = first.dilation
            shared = F.conv2d(y, weight_y, first.bias, padding=gap, dilation=gap)
            with no_autocast(own.device):
                x = F.conv2d(own, weight_own, None, padding=gap, dilation=gap)
            x = x.to(shared.dtype).add_(shared)
            x = _pixelwise(F.relu_(x), branch[2:])
            total = x if total is None else total + x
        assert total is not None, "there is at least one branch"
        return apply_dynamic_layers(total, layers)[:, 0]


def _pixelwise(x: Tensor, layers: nn.Sequential) -> Tensor:
    """1x1 convolutions and ReLUs as matrix products over (N, h, w, C): no reordering in between."""
    x = x.permute(0, 2, 3, 1)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = F.linear(x, layer.weight[:, :, 0, 0], layer.bias)
        else:
            x = F.relu_(x)
    return x.permute(0, 3, 1, 2)


def edge_band(union: Tensor) -> Tensor:
    """Cells near an edge: an edge kernel of dilation 3, applied twice.

    The released kernel (8 in the centre, -1 around, zero padding, everything non-zero kept) fires
    where a cell differs from any of its eight neighbours at that distance. Frame borders count as
    background.

    Args:
        union: (T, h, w) bool.

    Returns:
        (T, h, w) bool: 6 cells on each side of a straight edge.
    """
    return _differs(_differs(union))


def _differs(mask: Tensor) -> Tensor:
    gap = EDGE_DILATION
    padded = F.pad(mask[:, None].float(), (gap, gap, gap, gap))
    high = F.max_pool2d(padded, 3, stride=1, dilation=gap)
    low = -F.max_pool2d(-padded, 3, stride=1, dilation=gap)
    return (high != low)[:, 0]


def band_points(union: Tensor, band: Tensor, max_points: int) -> Tensor:
    """Cells of the band as indices, at most ``max_points``: those nearest to a contour first.

    Args:
        union: (h, w) bool, the mask whose edges the band follows.
        band: (h, w) bool.
        max_points: limit.

    Returns:
        (P,) int64 into the flattened map, ascending.
    """
    index = band.flatten().nonzero()[:, 0]
    if len(index) <= max_points:
        return index
    reach = 2 * EDGE_DILATION
    near = F.pad(union[None, None].float(), (1, 1, 1, 1))
    near = (F.max_pool2d(near, 3, 1) != -F.max_pool2d(-near, 3, 1)).float()
    distance = torch.zeros_like(near)
    for _ in range(reach):
        distance += 1 - near
        near = F.max_pool2d(near, 3, 1, padding=1)
    order = distance.flatten()[index].argsort(stable=True)
    return index[order[:max_points]].sort().values


def box_masks(boxes_cxcywh: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill boxes on a grid, corners truncated toward zero to whole cells.

    A corner left of or above the frame counts from the far end, as Python slices do: the released
    code's behaviour, usually an empty mask (docs/reference/released_code.md).

    Args:
        boxes_cxcywh: (N, 4) in [0, 1] of the frame.
        size: (h, w) of the grid.

    Returns:
        (N, h, w) bool.
    """
    h, w = size
    cx, cy, bw, bh = (boxes_cxcywh.float() * constant((w, h, w, h), boxes_cxcywh).float()).unbind(1)
    x1, y1 = cx - bw / 2, cy - bh / 2
    x2, y2 = bw + x1, bh + y1

    def inside(low: Tensor, high: Tensor, length: int) -> Tensor:
        bounds = []
        for corner in (low, high):
            cell = corner.trunc().clamp(-2 * length, 2 * length).long()
            cell = torch.where(cell < 0, cell + length, cell)
            bounds.append(cell.clamp(0, length))
        cells = torch.arange(length, device=low.device)
        return (cells >= bounds[0][:, None]) & (cells < bounds[1][:, None])  # (N, length)

    return inside(y1, y2, h)[:, :, None] & inside(x1, x2, w)[:, None, :]
