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
from vmt.layers.mask_head import relative_coordinates
from vmt.layers.mlp import controller
from vmt.layers.position import sine_position_of_cells
from vmt.layers.transformer import EncoderLayer
from vmt.modeling.frame_chunk import frame_chunk
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerOutput
from vmt.modeling.refiners.criterion import RefinerCriterion
from vmt.modeling.registry import REFINERS, register
from vmt.ops.frames import frame_chunks
from vmt.ops.linear import linear
from vmt.ops.resize import nearest
from vmt.ops.strips import in_row_strips
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
            frame_chunk=frame_chunk(cfg),
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
        y = self._attend(base + band[:, None] * high, union, band)
        offsets = (
            relative_coordinates(centres_px, size, 2) / self.offset_unit_px
        )  # (N, t, 2, h2, w2)
        own = [nearest(probs_s4, size)[:, :, None], nearest(coarse, size)[:, :, None]]
        own.append(box_masks(inputs.boxes_cxcywh[:, rows].detach(), size)[:, :, None])
        return self._decode(y, torch.cat([*own, offsets], dim=2), stage3), logits_s4

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
        reduced = F.relu(self.stage2_reduce(features)).transpose(0, 1)  # (8, t, h4, w4)
        offsets = relative_coordinates(centres_px, size, 4) / self.offset_unit_px
        own = torch.cat([offsets, nearest(coarse, size)[:, :, None]], dim=2).transpose(1, 2)
        shared = reduced.expand(len(coarse), -1, -1, -1, -1)
        return apply_dynamic_layers(torch.cat([own, shared], dim=1), layers)[:, 0]

    def _attend(self, y: Tensor, union: Tensor, band: Tensor) -> Tensor:
        """Refinement transformer over the band of each frame, (t, C, h2, w2) -> (t, C, h2, w2)."""
        counts = [int(count) for count in band.flatten(1).sum(1).tolist()]
        index = band_points(union, band, self.max_points, counts)
        self.count_points(sum(counts), len(index))
        if not len(index):
            return y
        size = (int(y.shape[-2]), int(y.shape[-1]))
        cells = y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])  # (t * h2 * w2, C)
        tokens = cells[index][None]  # (1, P, C)
        place = index % (size[0] * size[1])
        position = sine_position_of_cells(
            place // size[1], place % size[1], size, self.embed_dim // 2, cell_offset=0.0
        ).to(tokens.dtype)
        lengths = [count for count in (min(c, self.max_points) for c in counts) if count]
        x = tokens
        for layer in self.encoder.get_submodule("layers").children():
            x = layer(x, position, lengths)
        refined = cells.index_add(0, index, x[0].to(cells.dtype))
        return refined.view(len(y), *size, -1).permute(0, 3, 1, 2)

    def _decode(self, y: Tensor, own: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Masks at stride 2.

        A branch convolves [y, own]; by linearity the part of ``y``, 64 of the 69 channels, is
        computed once for all N instances.

        Args:
            y: (t, embed_dim, h2, w2).
            own: (N, t, 5, h2, w2): masks of stage 2 and of the mask head, box mask, dx, dy.
            layers: dynamic layers of the N instances.

        Returns:
            (N, t, h2, w2) logits.
        """
        N, t, _, h, w = own.shape
        if not N:
            return own[:, :, 0]
        y = y.contiguous(memory_format=torch.channels_last)
        branches = [_Branch(branch, self.embed_dim) for branch in self.branches]
        shared = [branch.shared(y) for branch in branches]
        room = max(BRANCH_DILATIONS)
        padded = F.pad(own.flatten(0, 1), (0, 0, room, room))
        padded = padded.contiguous(memory_format=torch.channels_last)

        def rows_of(top: int, bottom: int) -> Tensor:
            total: Tensor | None = None
            for branch, common in zip(branches, shared, strict=True):
                gap = branch.gap
                rows = padded[..., top + room - gap : bottom + room + gap, :]
                x = branch.add_own(rows, common[..., top:bottom, :])
                total = x if total is None else total + x
            assert total is not None, "there is at least one branch"
            values = total.view(N, t * (bottom - top) * w, -1).transpose(1, 2)
            return apply_dynamic_layers(values, layers).view(N, t, bottom - top, w)

        return in_row_strips(rows_of, h, 0, N * t * BRANCH_WIDTH * w, own.device)


class _Branch:
    """A chain of layers whose first convolution reads shared and own channels apart.

    Args:
        layers: a dilated 3x3 convolution, then 1x1 convolutions, ReLU behind each.
        shared_dim: channels that all instances share; the others are their own.
    """

    def __init__(self, layers: nn.Module, shared_dim: int) -> None:
        assert isinstance(layers, nn.Sequential), "a branch is a chain of layers"
        first = layers[0]
        assert isinstance(first, nn.Conv2d), "a branch starts with its dilated convolution"
        self.gap = first.dilation[0]
        self._bias = first.bias
        self._weight_shared, self._weight_own = first.weight.split(
            [shared_dim, first.in_channels - shared_dim], dim=1
        )
        pixelwise = [layer for layer in layers[2:] if isinstance(layer, nn.Conv2d)]
        self._pixelwise = [(layer.weight[:, :, 0, 0], layer.bias) for layer in pixelwise]

    def shared(self, y: Tensor) -> Tensor:
        """(t, shared_dim, h, w) -> (t, width, h, w), with the bias."""
        return F.conv2d(y, self._weight_shared, self._bias, padding=self.gap, dilation=self.gap)

    def add_own(self, own: Tensor, shared: Tensor) -> Tensor:
        """The chain's output for some rows.

        Args:
            own: (N*t, 5, gap + rows + gap, w).
            shared: (t, width, rows, w) of ``shared``.

        Returns:
            (N, t, rows, w, out): 1x1 convolutions are matrix products over it.
        """
        with no_autocast(own.device):
            x = F.conv2d(own, self._weight_own, None, padding=(0, self.gap), dilation=self.gap)
        x = x.to(shared.dtype).permute(0, 2, 3, 1).unflatten(0, (-1, len(shared)))
        x = F.relu_(x.add_(shared.permute(0, 2, 3, 1)))
        for weight, bias in self._pixelwise:
            x = linear(x, weight, bias, relu=True)
        return x


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


def band_points(union: Tensor, band: Tensor, max_points: int, counts: Sequence[int]) -> Tensor:
    """Cells of the bands as indices, at most ``max_points`` a frame: those nearest to a contour.

    Args:
        union: (T, h, w) bool, the masks whose edges the bands follow.
        band: (T, h, w) bool.
        max_points: limit.
        counts: cells of the band of each frame; with them nobody waits for the device.

    Returns:
        (P,) int64 into the flattened maps, ascending.
    """
    index = torch.nonzero_static(band.flatten(), size=sum(counts))[:, 0]
    if max(counts, default=0) <= max_points:
        return index
    near = F.pad(union[:, None].float(), (1, 1, 1, 1))
    near = (F.max_pool2d(near, 3, 1) != -F.max_pool2d(-near, 3, 1)).float()
    distance = torch.zeros_like(near)
    for _ in range(2 * EDGE_DILATION):
        distance += 1 - near
        near = F.max_pool2d(near, 3, 1, padding=1)
    order = distance.flatten()[index].argsort(stable=True)
    frame = torch.div(index[order], band[0].numel(), rounding_mode="floor")
    order = order[frame.argsort(stable=True)]
    nearest_first = [part[:max_points] for part in order.split(list(counts))]
    return index[torch.cat(nearest_first).sort().values]


def box_masks(boxes_cxcywh: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill boxes on a grid, corners truncated toward zero to whole cells.

    A corner left of or above the frame counts from the far end, as Python slices do: the released
    code's behaviour, usually an empty mask (docs/reference/released_code.md).

    Args:
        boxes_cxcywh: (..., 4) in [0, 1] of the frame.
        size: (h, w) of the grid.

    Returns:
        (..., h, w) bool.
    """
    h, w = size
    cx, cy, bw, bh = (boxes_cxcywh.float() * constant((w, h, w, h), boxes_cxcywh).float()).unbind(
        -1
    )
    x1, y1 = cx - bw / 2, cy - bh / 2
    x2, y2 = bw + x1, bh + y1

    def inside(low: Tensor, high: Tensor, length: int) -> Tensor:
        bounds = []
        for corner in (low, high):
            cell = corner.trunc().clamp(-2 * length, 2 * length).long()
            cell = torch.where(cell < 0, cell + length, cell)
            bounds.append(cell.clamp(0, length))
        cells = torch.arange(length, device=low.device)
        return (cells >= bounds[0][..., None]) & (cells < bounds[1][..., None])  # (..., length)

    return inside(y1, y2, h)[..., :, None] & inside(x1, x2, w)[..., None, :]
