"""The refiner of the paper: quadtrees of incoherent points over all frames of a tracklet.

Source: Video Mask Transfiner, arXiv:2207.14012, section 3.1. What the paper leaves open, and where
we depart from it, stands in docs/methods/vmt.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.layers.dynamic_conv import num_dynamic_parameters
from vmt.layers.mlp import MLP, controller
from vmt.modeling.frame_chunk import frame_chunk
from vmt.modeling.refiners.base import RefinerInput, RefinerLosses
from vmt.modeling.refiners.quadtree.criterion import QuadtreeCriterion, QuadtreeOutput
from vmt.modeling.refiners.quadtree.detector import HALO, NUM_PARAMETERS, IncoherenceDetector
from vmt.modeling.refiners.quadtree.detector import WIDTH as DETECTOR_WIDTH
from vmt.modeling.refiners.quadtree.grow import best_nodes, build_quadtree
from vmt.modeling.refiners.quadtree.node_encoder import NodeEncoder, PyramidRefiner, halve
from vmt.modeling.refiners.quadtree.options import QuadtreeOptions
from vmt.modeling.refiners.quadtree.pixel_decoder import WIDTHS, PixelDecoder
from vmt.modeling.refiners.quadtree.regions import region_levels
from vmt.modeling.refiners.quadtree.sequence_encoder import Blocks, SequenceEncoder
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree, join_frames
from vmt.modeling.refiners.quadtree.window import Window, is_worth_it, window_around
from vmt.modeling.refiners.quadtree.write_back import to_next_level, write_back
from vmt.modeling.registry import REFINERS, register
from vmt.ops.frames import frame_chunks
from vmt.ops.resize import cell_centres_px
from vmt.ops.strips import in_row_strips, values_at_once
from vmt.utils.device import constant

#: Input pixels per cell of the levels, and what their layers are called.
STRIDES = (8, 4, 2)
LEVELS = ("s8", "s4", "s2")
#: Stride-8 cells around the roots that are computed with them: what a node below one reads.
WINDOW_MARGIN = 3
#: Frames that share ``max_points`` nodes of a tracklet; a video of twice as many has twice as many.
BUDGET_FRAMES = 40
#: Score of a cell that was not looked at.
OUTSIDE = -math.inf
#: Frames of which dense maps exist at once on a CPU: more would be no faster.
CPU_FRAMES = 1
#: Nodes refined at once on a CPU, at least one tracklet, when no gradient is asked for: more would
#: be no faster.
CPU_NODES = 8192
#: Numbers that a node takes per channel of its token, between the layers; more than there are.
NUMBERS_PER_CHANNEL = 16


@register(REFINERS, "quadtree")
class QuadtreeRefiner(PyramidRefiner):
    """Detect incoherent points, let them attend across frames, decode and write back only them.

    Args:
        options: sizes, attention, detector and budgets.
        stride4_dim: channels of the backbone's stride-4 map.
        has_stride2: see ``PyramidRefiner``.
        dim: channels of the queries and of the fused map.
        frame_chunk: frames of which dense maps exist at once.
        frame_dim: see ``PyramidRefiner``.

    Attributes:
        thresholds: score per level from which a cell is a node.
    """

    points_are_per = f"a tracklet and {BUDGET_FRAMES} frames"
    thresholds: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __init__(
        self,
        options: QuadtreeOptions,
        stride4_dim: int,
        has_stride2: bool,
        dim: int = 256,
        frame_chunk: int = 2,
        frame_dim: int = 3,
    ) -> None:
        width = options.embed_dim
        super().__init__(dim, stride4_dim, has_stride2, width, frame_dim)
        self.options = options
        self.max_points = options.max_points
        self.frame_chunk = frame_chunk
        self.detector = IncoherenceDetector(width, LEVELS, static=options.detector == "fcn")
        self.detector_controller: MLP | None = None
        if options.detector != "fcn":
            self.detector_controller = controller(dim, NUM_PARAMETERS)
        self.controller = controller(dim, num_dynamic_parameters(WIDTHS))
        self.node_encoder = NodeEncoder(width, len(STRIDES), options.context)
        self.encoder = SequenceEncoder(
            width,
            dim,
            options.num_heads,
            options.num_layers,
            options.ffn_dim,
            options.dropout,
            options.guided,
            options.reach_px,
        )
        self.decoder = PixelDecoder(width, options.shared_head)

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: Mapping[int, int], dim: int) -> QuadtreeRefiner:
        """Build from ``MODEL.REFINER``; see ``Refiner.from_config``."""
        options = QuadtreeOptions.from_config(cfg)
        return cls(
            options,
            channels[4],
            channels.get(2) == options.embed_dim,
            dim,
            frame_chunk(cfg),
            channels.get(1, 3),
        )

    @classmethod
    def criterion(cls, cfg: CfgNode) -> RefinerLosses:
        """The losses that train it, from ``MODEL.LOSS``."""
        loss = cfg.MODEL.LOSS
        return QuadtreeCriterion(
            STRIDES,
            mask_weight=loss.REFINE_MASK_WEIGHT,
            dice_weight=loss.REFINE_DICE_WEIGHT,
            boundary_weight=loss.REFINE_BOUNDARY_WEIGHT,
            node_weight=loss.REFINE_STAGE_WEIGHT,
            detector_weight=loss.INC_WEIGHT,
            focal_alpha=loss.FOCAL_ALPHA,
            focal_gamma=loss.FOCAL_GAMMA,
        )

    def forward(self, inputs: RefinerInput) -> QuadtreeOutput:
        """Refined masks of stride 2.

        As in the released code, gradients reach queries and ``fused`` only: backbone maps, boxes,
        centres and coarse masks are read without.
        """
        tracklets = self._draw_tracklets(inputs)
        if tracklets is not None:
            inputs = _of_tracklets(inputs, tracklets)
        regions = self._regions(inputs, self.level_sizes(inputs))
        return self._run(inputs, regions, tracklets, detected=True)

    def refine_regions(self, inputs: RefinerInput, regions: Sequence[Tensor]) -> QuadtreeOutput:
        """``forward`` with nodes that are given, not detected: for pictures and studies.

        Args:
            inputs: a clip.
            regions: per level (N, T, h, w) bool, of ``level_sizes``.
        """
        return self._run(inputs, regions, None, detected=False)

    def _run(
        self,
        inputs: RefinerInput,
        regions: Sequence[Tensor],
        tracklets: Tensor | None,
        detected: bool,
    ) -> QuadtreeOutput:
        parameters = self._detector_parameters(inputs)
        trees, tokens, probs, logits = [], [], [], []
        chunk = self.frame_chunk
        if not torch.is_grad_enabled() and inputs.frames.device.type == "cpu":
            chunk = CPU_FRAMES
        for rows in frame_chunks(len(inputs.frames), chunk):
            grown, token, prob, marks = self._grow(inputs, rows, parameters, regions, detected)
            trees.append(grown)
            tokens.append(token)
            probs.append(prob)
            if self.training:
                logits.append(marks)
        tree, chosen = self._within_budget(join_frames(trees))
        coarse, joined = torch.cat(probs)[chosen], torch.cat(tokens)[chosen]
        tokens.clear()
        node_logits = self._refine_nodes(inputs, tree, joined, coarse)
        first = STRIDES.index(inputs.coarse_stride)
        levels = write_back(tree, node_logits, inputs.coarse_logits.detach(), chunk, first)
        return QuadtreeOutput(
            mask_logits=levels[-1],
            mask_stride=STRIDES[-1],
            stage_logits=levels[-2],
            tree=tree,
            node_logits=node_logits,
            tracklets=tracklets,
            detector_logits=tuple(torch.cat(level, 1) for level in zip(*logits, strict=True)),
            regions=tuple(regions),
        )

    def _draw_tracklets(self, inputs: RefinerInput) -> Tensor | None:
        """(N',) int64, ascending, or None when all are refined."""
        count, limit = len(inputs.query), self.options.train_tracklets
        if not self.training or limit <= 0 or count <= limit:
            return None
        return torch.randperm(count, device=inputs.query.device)[:limit].sort().values

    def _detector_parameters(self, inputs: RefinerInput) -> Tensor | None:
        mlp = self.detector_controller
        if mlp is None:
            return None
        query: Tensor | None = inputs.query
        if self.options.detector == "frame_query":
            query = inputs.box_query
            if query is None:
                raise ValueError("DETECTOR frame_query needs the box queries of the tracklets.")
        parameters: Tensor = mlp(query)
        return parameters

    def level_sizes(self, inputs: RefinerInput) -> tuple[tuple[int, int], ...]:
        """(h, w) at strides 8, 4 and 2."""
        h8, w8 = inputs.fused.shape[-2:]
        h4, w4 = inputs.stride4.shape[-2:]
        h2, w2 = 2 * h4, 2 * w4
        if self.compress is None:
            assert inputs.stride2 is not None, "the backbone declared a stride-2 map"
            h2, w2 = inputs.stride2.shape[-2:]
        return (int(h8), int(w8)), (int(h4), int(w4)), (int(h2), int(w2))

    def _regions(self, inputs: RefinerInput, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """What the annotation says should be nodes; nothing outside training."""
        if not self.training or inputs.masks_gt is None:
            return []
        return region_levels(inputs.masks_gt, STRIDES, sizes, self.options.region)

    def _grow(
        self,
        inputs: RefinerInput,
        rows: slice,
        parameters: Tensor | None,
        regions: Sequence[Tensor],
        detected: bool,
    ) -> tuple[SequenceQuadtree, Tensor, Tensor, list[Tensor]]:
        """Trees of some frames: nodes, tokens (P, C), coarse probabilities (P,), detector logits.

        Dense maps exist in here only; what leaves at inference belongs to nodes. Finer levels are
        computed in a window around the roots; in training, whose losses read the detector's
        scores of all cells, everywhere.
        """
        sizes = self.level_sizes(inputs)
        maps = self.rgb_levels(inputs.frames[rows], sizes)
        maps[0] = self.features_s8(inputs.fused[rows], maps[0])
        centres_px = inputs.centres_px[:, rows].detach().float()
        if parameters is not None and parameters.ndim == 3:
            parameters = parameters[:, rows]
        probs = _coarse_probs(inputs, rows, sizes)
        logits, scores = [], []
        window = Window(0, sizes[0][0], 0, sizes[0][1])
        for level in range(len(sizes)):
            prob = window.crop(probs[level], level)
            marks = self._detect(level, maps[level], prob, centres_px, window, parameters)
            score = prob.new_full(probs[level].shape, OUTSIDE, dtype=torch.float32)
            if detected:
                window.crop(score, level).copy_(marks.detach().sigmoid())
            known = [cells[level:] for cells in (inputs.given, regions)]
            score = _with_known(score, known, rows)
            scores.append(score)
            if self.training:
                logits.append(marks)
            if level == 0:
                if not self.training and is_worth_it(maps[2].numel(), score.device):
                    window = window_around(score >= self.thresholds[0], WINDOW_MARGIN)
                maps[1:] = self._fine_features(inputs, rows, window, maps[1], maps[2])
        budget = self.options.train_frame_points if self.training else 0
        tree = build_quadtree(scores, self.thresholds, budget)
        tokens, coarse = [], []
        ends = [0, *tree.counts.sum((0, 1)).cumsum(0).tolist()]  # nodes lie level after level
        for level, (feature_map, prob) in enumerate(zip(maps, probs, strict=True)):
            n, t, y, x = tree.cells(slice(ends[level], ends[level + 1]))
            coarse.append(prob[n, t, y, x])
            y, x = self.node_encoder.around(y, x, sizes[level])
            around = prob[n[:, None], t[:, None], y, x]
            if level:
                y, x = y - (window.top << level), x - (window.left << level)
            tokens.append(self.node_encoder(_cells_of(feature_map, t, y, x), around))
        return tree, torch.cat(tokens), torch.cat(coarse), logits

    def _fine_features(
        self, inputs: RefinerInput, rows: slice, window: Window, rgb4: Tensor, rgb2: Tensor
    ) -> list[Tensor]:
        """Maps of the levels below the coarsest, inside the window."""
        stride2 = None
        if self.compress is None and inputs.stride2 is not None:
            stride2 = window.crop(self._map(inputs.stride2[rows]), 2)
        return self.fine_features(
            window.crop(inputs.fused[rows], 0),
            window.crop(self._map(inputs.stride4[rows]), 1),
            stride2,
            window.crop(rgb4, 1),
            window.crop(rgb2, 2),
        )

    def _map(self, backbone_map: Tensor) -> Tensor:
        return backbone_map if self.options.train_maps else backbone_map.detach()

    def _detect(
        self,
        level: int,
        features: Tensor,
        prob: Tensor,
        centres_px: Tensor,
        window: Window,
        parameters: Tensor | None,
    ) -> Tensor:
        """Logits of the detector, (N, t, h, w); features (t, C, h, w), prob (N, t, h, w)."""
        N, t, h, w = prob.shape
        top_px, left_px = (STRIDES[0] * cells for cells in (window.top, window.left))
        cells = cell_centres_px((h, w), STRIDES[level], prob)
        cells += constant((left_px, top_px), cells)[:, None, None]

        def rows_of(top: int, bottom: int) -> Tensor:
            offsets = (
                centres_px[..., None, None] - cells[:, top:bottom]
            ) / self.options.offset_unit_px
            own = torch.cat([offsets, prob[:, :, None, top:bottom]], dim=2)
            part = features[..., top:bottom, :]
            part_logits: Tensor = self.detector(LEVELS[level], part, own, parameters)
            return part_logits

        return in_row_strips(rows_of, h, HALO, N * t * DETECTOR_WIDTH * w, prob.device)

    def _within_budget(self, tree: SequenceQuadtree) -> tuple[SequenceQuadtree, Tensor]:
        """The nodes that are refined, in sequence, and which of ``tree``'s they are."""
        limit, priority = self.max_points * math.ceil(tree.num_frames / BUDGET_FRAMES), tree.score
        if self.training:
            limit, priority = self.options.train_points, torch.rand_like(tree.score)
        best = best_nodes(tree, limit, priority)
        self.count_points(len(tree), len(best))
        chosen = best[tree.sequence_order(best)]
        return tree.select(chosen), chosen

    def _refine_nodes(
        self, inputs: RefinerInput, tree: SequenceQuadtree, tokens: Tensor, coarse: Tensor
    ) -> Tensor:
        """(P, C) tokens and (P,) coarse probabilities -> (P,) logits; tracklets on their own."""
        options, apart = self.options, not self.options.grouped
        parameters = self.controller(inputs.query)
        logits = [coarse.new_zeros(0)]
        shifts = (0, options.window // 2) if options.window else ()
        blocks = Blocks.of_keys([tree.blocks(options.window, shift, apart) for shift in shifts])
        lengths = tree.lengths()
        for first, last in _groups(lengths, self._nodes_at_once(tokens.device)):
            nodes = tree.of_tracklets(first, last)
            part = slice(sum(lengths[:first]), sum(lengths[:last]))
            position = self.node_encoder.position(nodes, not apart).to(tokens.dtype)
            centres_px = inputs.centres_px.detach()[nodes.tracklet, nodes.frame]
            offsets = centres_px - nodes.centres_px(STRIDES)
            if options.reach_px:
                position = torch.cat([position.float(), offsets.flip(1)], 1)
            own_blocks = [block.part(part) for block in blocks]
            x = self.encoder(
                tokens[part],
                position,
                nodes.lengths(apart),
                inputs.query,
                nodes.tracklet,
                own_blocks,
            )
            offsets = offsets / options.offset_unit_px
            logits.append(self.decoder(x, offsets, coarse[part], parameters, nodes.lengths()))
        return torch.cat(logits)

    def _nodes_at_once(self, device: torch.device) -> int:
        """As many as memory holds; 0: all, whose gradients keep everything anyway."""
        if torch.is_grad_enabled():
            return 0
        if device.type == "cpu":
            return CPU_NODES
        return values_at_once(device) // (NUMBERS_PER_CHANNEL * self.options.embed_dim)


def _cells_of(maps: Tensor, frame: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(t, C, h, w) maps at (P,) frames, (P, K) rows and columns -> (P, K, C)."""
    if not torch.is_grad_enabled():
        return maps[frame[:, None], :, y, x]
    h, w = maps.shape[-2:]
    # As rows of one matrix: their gradient is added row by row, several times as fast.
    flat = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    index = (frame[:, None] * h + y) * w + x
    cells: Tensor = flat.index_select(0, index.flatten()).unflatten(0, index.shape)
    return cells


def _with_known(score: Tensor, known: Sequence[Sequence[Tensor]], rows: slice) -> Tensor:
    """Scores (N, t, h, w), 1 where any of the first of each list, (N, T, h' >= h, w'), says so."""
    h, w = score.shape[-2:]
    for cells in known:
        if cells:
            score = torch.maximum(score, cells[0][:, rows, :h, :w].to(score.dtype))
    return score


def _coarse_probs(
    inputs: RefinerInput, rows: slice, sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Per level (N, t, h, w), as they are given or from that of the coarse logits up and down."""
    if inputs.coarse_levels:
        levels = zip(inputs.coarse_levels, sizes, strict=True)
        return [level[:, rows, :h, :w] for level, (h, w) in levels]
    probs = [inputs.coarse_logits[:, rows].detach().sigmoid()]
    first = STRIDES.index(inputs.coarse_stride)
    for size in sizes[first + 1 :]:
        probs.append(to_next_level(probs[-1], size))
    for size in reversed(sizes[:first]):
        probs.insert(0, halve(probs[0], size))
    return probs


def _groups(lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Neighbouring tracklets with at most ``limit`` tokens, or one of more; 0: all.

    Returns:
        (first, behind the last) of each group with tokens.
    """
    bounds = [0]
    tokens = 0
    for tracklet, length in enumerate(lengths):
        if limit and tokens and tokens + length > limit:
            bounds.append(tracklet)
            tokens = 0
        tokens += length
    return [(a, b) for a, b in pairwise([*bounds, len(lengths)]) if sum(lengths[a:b])]


def _of_tracklets(inputs: RefinerInput, index: Tensor) -> RefinerInput:
    """The same clip with the tracklets at ``index`` only."""
    return replace(
        inputs,
        coarse_logits=inputs.coarse_logits[index],
        query=inputs.query[index],
        centres_px=inputs.centres_px[index],
        boxes_cxcywh=inputs.boxes_cxcywh[index],
        box_query=None if inputs.box_query is None else inputs.box_query[index],
        masks_gt=None if inputs.masks_gt is None else inputs.masks_gt[index],
        given=tuple(cells[index] for cells in inputs.given),
        coarse_levels=tuple(level[index] for level in inputs.coarse_levels),
    )
