"""The refiner of the paper: quadtrees of incoherent points over all frames of a tracklet.

Source: Video Mask Transfiner, arXiv:2207.14012, section 3.1. What the paper leaves open, and where
we depart from it, stands in docs/methods/vmt.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.layers.dynamic_conv import num_dynamic_parameters
from vmt.layers.mlp import MLP, controller
from vmt.modeling.refiners.base import RefinerInput, RefinerLosses
from vmt.modeling.refiners.incoherent_region import RegionRule
from vmt.modeling.refiners.quadtree.criterion import QuadtreeCriterion, QuadtreeOutput
from vmt.modeling.refiners.quadtree.detector import DETECTORS, IncoherenceDetector
from vmt.modeling.refiners.quadtree.detector import WIDTH as DETECTOR_WIDTH
from vmt.modeling.refiners.quadtree.grow import best_nodes, build_quadtree
from vmt.modeling.refiners.quadtree.node_encoder import NodeEncoder, PyramidRefiner
from vmt.modeling.refiners.quadtree.pixel_decoder import WIDTHS, PixelDecoder
from vmt.modeling.refiners.quadtree.regions import (
    REGION_KINDS,
    REGION_RULES,
    RegionKind,
    region_levels,
)
from vmt.modeling.refiners.quadtree.sequence_encoder import SequenceEncoder
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree, join_frames
from vmt.modeling.refiners.quadtree.window import Window, window_around
from vmt.modeling.refiners.quadtree.write_back import PROPAGATIONS, to_next_level, write_back
from vmt.modeling.registry import REFINERS, register
from vmt.ops.frames import frame_chunks
from vmt.ops.resize import cell_centres_px
from vmt.ops.strips import in_row_strips
from vmt.utils.errors import ConfigError

#: Input pixels per cell of the levels, and what their layers are called.
STRIDES = (8, 4, 2)
LEVELS = ("s8", "s4", "s2")
#: Stride-8 cells around the roots that are computed with them: what a node below one reads.
WINDOW_MARGIN = 3
#: Frames that share ``max_points`` nodes of a tracklet; a video of twice as many has twice as many.
BUDGET_FRAMES = 40
#: Score of a cell that was not looked at.
OUTSIDE = -math.inf
#: Nodes refined at once, at least one tracklet, when no gradient is asked for; bounds memory.
NODES_AT_ONCE = 8192
TRAIN_NODES = ("detected", "truth", "union")
TrainNodes = Literal["detected", "truth", "union"]


@register(REFINERS, "quadtree")
class QuadtreeRefiner(PyramidRefiner):
    """Detect incoherent points, let them attend across frames, decode and write back only them.

    Args:
        stride4_dim: channels of the backbone's stride-4 map.
        has_stride2: see ``PyramidRefiner``.
        dim: channels of the queries and of the fused map.
        embed_dim: width of node features and of the refinement transformer.
        num_heads: of its attentions.
        num_layers: pairs of node attention and instance guidance.
        ffn_dim: of the node attention layers.
        dropout: in training.
        rgb_kernels: see ``PyramidRefiner``.
        grouped: nodes of all frames of a tracklet form one sequence (quadtree sequence grouping);
            False: each frame alone, with neither attention nor a time code across frames.
        window: nodes attend within squares of so many stride-8 cells, over all frames; those of
            every second layer are shifted by half. 0: to all nodes of the tracklet.
        guided: with instance guidance layers.
        detector: "video_query", "frame_query" or "fcn": what makes the detector's weights.
        detector_kernel: 3 or 1, see ``IncoherenceDetector``.
        thresholds: score per level from which a cell is a node.
        region: what the detector learns, see ``region_levels``.
        region_rule: see ``region_levels``.
        region_closed: see ``region_levels``.
        propagation: "bilinear" or "nearest", see ``write_back``.
        max_points: most nodes per tracklet and ``BUDGET_FRAMES`` frames in evaluation, highest
            scores first; 0: all.
        train_nodes: in training nodes are the "detected" ones, the "truth" of the annotation, or
            the "union".
        train_frame_points: most nodes per tracklet, level and frame in training, at random.
        train_points: most nodes per tracklet in training, at random.
        train_tracklets: most tracklets per clip in training, at random.
        context: see ``NodeEncoder``.
        shared_head: see ``PixelDecoder``.
        reach_px: attention falls with the distance of nodes from each other, measured from the
            centre of the object in their frames, see ``NearAttention``; 0: it does not.
        offset_unit_px: pixels that count as 1 in the offsets to the instance's centre which
            detector and decoder read; 1 as in the released code.
        train_maps: let gradients reach the backbone's maps; the released code does not.
        frame_chunk: frames of which dense maps exist at once.
    """

    points_are_per = f"a tracklet and {BUDGET_FRAMES} frames"

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
        rgb_kernels: Sequence[int] = (3, 3, 3),
        grouped: bool = True,
        window: int = 0,
        guided: bool = True,
        detector: str = "video_query",
        detector_kernel: int = 3,
        thresholds: Sequence[float] = (0.5, 0.5, 0.5),
        region: RegionKind = "incoherent",
        region_rule: RegionRule = "residue",
        region_closed: bool = True,
        propagation: str = "bilinear",
        max_points: int = 60000,
        train_nodes: TrainNodes = "union",
        train_frame_points: int = 300,
        train_points: int = 4000,
        train_tracklets: int = 10,
        context: int = 1,
        shared_head: bool = False,
        reach_px: float = 0.0,
        offset_unit_px: float = 1.0,
        train_maps: bool = False,
        frame_chunk: int = 2,
    ) -> None:
        super().__init__(dim, stride4_dim, has_stride2, embed_dim, rgb_kernels)
        self.grouped = grouped
        self.window = window
        self.detector_kind = detector
        self.thresholds = tuple(thresholds)
        self.region: RegionKind = region
        self.region_rule: RegionRule = region_rule
        self.region_closed = region_closed
        self.propagation = propagation
        self.max_points = max_points
        self.train_nodes: TrainNodes = train_nodes
        self.train_frame_points = train_frame_points
        self.train_points = train_points
        self.train_tracklets = train_tracklets
        self.offset_unit_px = offset_unit_px
        self.train_maps = train_maps
        self.frame_chunk = frame_chunk
        self.detector = IncoherenceDetector(
            embed_dim, LEVELS, detector_kernel, static=detector == "fcn"
        )
        # With kernel 1 it has the layout, and so the name, of the release's second stage.
        self.stage2_controller: MLP | None = None
        self.detector_controller: MLP | None = None
        if detector != "fcn":
            mlp = controller(dim, self.detector.num_parameters)
            if detector_kernel == 1:
                self.stage2_controller = mlp
            else:
                self.detector_controller = mlp
        self.controller = controller(dim, num_dynamic_parameters(WIDTHS))
        self.node_encoder = NodeEncoder(embed_dim, len(STRIDES), context)
        self.encoder = SequenceEncoder(
            embed_dim, dim, num_heads, num_layers, ffn_dim, dropout, guided, reach_px
        )
        self.reach_px = reach_px
        self.decoder = PixelDecoder(embed_dim, shared_head)

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: Mapping[int, int], dim: int) -> QuadtreeRefiner:
        """Build from ``MODEL.REFINER``.

        Raises:
            ConfigError: a value that is none of those a key allows.
        """
        node = cfg.MODEL.REFINER
        for key, allowed in (
            ("DETECTOR", DETECTORS),
            ("INC_KERNEL", (1, 3)),
            ("REGION", REGION_KINDS),
            ("REGION_RULE", REGION_RULES),
            ("PROPAGATION", PROPAGATIONS),
            ("TRAIN_NODES", TRAIN_NODES),
        ):
            if node[key] not in allowed:
                raise ConfigError(
                    f"MODEL.REFINER.{key} must be one of {', '.join(map(str, allowed))}, "
                    f"not {node[key]!r}."
                )
        for key in ("WINDOW", "REACH_PX"):
            if node[key] < 0:
                raise ConfigError(f"MODEL.REFINER.{key} must be 0 or more, not {node[key]}.")
        if node.CONTEXT < 1 or node.CONTEXT % 2 == 0:
            raise ConfigError(
                f"MODEL.REFINER.CONTEXT must be 1, 3, 5 or another odd number, not {node.CONTEXT}."
            )
        for key in ("INC_THRESHOLDS", "RGB_KERNELS"):
            if len(node[key]) != len(STRIDES):
                raise ConfigError(f"MODEL.REFINER.{key} must have 3 values, not {node[key]!r}.")
        if any(kernel not in (1, 3) for kernel in node.RGB_KERNELS):
            raise ConfigError(
                f"MODEL.REFINER.RGB_KERNELS must hold 1s and 3s, not {node.RGB_KERNELS!r}."
            )
        return cls(
            stride4_dim=channels[4],
            has_stride2=channels.get(2) == node.EMBED_DIM,
            dim=dim,
            embed_dim=node.EMBED_DIM,
            num_heads=node.NUM_HEADS,
            num_layers=node.NUM_LAYERS,
            ffn_dim=node.FFN_DIM,
            dropout=node.DROPOUT,
            rgb_kernels=node.RGB_KERNELS,
            grouped=node.QSG,
            window=node.WINDOW,
            guided=node.IGL,
            detector=node.DETECTOR,
            detector_kernel=node.INC_KERNEL,
            thresholds=node.INC_THRESHOLDS,
            region=node.REGION,
            region_rule=node.REGION_RULE,
            region_closed=node.REGION_CLOSED,
            propagation=node.PROPAGATION,
            max_points=node.MAX_POINTS,
            train_nodes=node.TRAIN_NODES,
            train_frame_points=node.TRAIN_FRAME_POINTS,
            train_points=node.TRAIN_POINTS,
            train_tracklets=node.TRAIN_TRACKLETS,
            context=node.CONTEXT,
            shared_head=node.SHARED_HEAD,
            reach_px=node.REACH_PX,
            offset_unit_px=node.OFFSET_UNIT_PX,
            train_maps=node.TRAIN_MAPS,
            frame_chunk=cfg.TEST.FRAME_CHUNK,
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
            node_weight=loss.REFINE_NODE_WEIGHT,
            detector_weight=loss.INC_WEIGHT,
            detector_dice_weight=loss.INC_DICE_WEIGHT,
            focal_alpha=loss.FOCAL_ALPHA,
            focal_gamma=loss.FOCAL_GAMMA,
        )

    def forward(self, inputs: RefinerInput) -> QuadtreeOutput:
        """See ``Refiner``; the result has stride 2.

        As in the released code, gradients reach queries and ``fused`` only: backbone maps, boxes,
        centres and coarse masks are read without.
        """
        tracklets = self._draw_tracklets(inputs)
        if tracklets is not None:
            inputs = _of_tracklets(inputs, tracklets)
        regions = self._regions(inputs, self.level_sizes(inputs))
        return self._run(inputs, regions, self.train_nodes, tracklets)

    def refine_regions(self, inputs: RefinerInput, regions: Sequence[Tensor]) -> QuadtreeOutput:
        """``forward`` with nodes that are given, not detected: for pictures and studies.

        Args:
            inputs: a clip.
            regions: per level (N, T, h, w) bool, of ``level_sizes``.
        """
        return self._run(inputs, regions, "truth", None)

    def _run(
        self,
        inputs: RefinerInput,
        regions: Sequence[Tensor],
        source: TrainNodes,
        tracklets: Tensor | None,
    ) -> QuadtreeOutput:
        parameters = self._detector_parameters(inputs)
        trees, tokens, probs, logits = [], [], [], []
        chunk = self.frame_chunk
        if not torch.is_grad_enabled() and inputs.frames.device.type == "cpu":
            chunk = 1  # more would be no faster
        for rows in frame_chunks(len(inputs.frames), chunk):
            grown, of_nodes, prob, found = self._grow(inputs, rows, parameters, regions, source)
            trees.append(grown)
            tokens.append(of_nodes)
            probs.append(prob)
            if self.training:
                logits.append(found)
        tree, chosen = self._within_budget(join_frames(trees))
        coarse, joined = torch.cat(probs)[chosen], torch.cat(tokens)[chosen]
        tokens.clear()
        node_logits = self._refine_nodes(inputs, tree, joined, coarse)
        levels = write_back(
            tree, node_logits, inputs.coarse_logits.detach(), self.propagation, chunk
        )
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
        count, limit = len(inputs.query), self.train_tracklets
        if not self.training or limit <= 0 or count <= limit:
            return None
        return torch.randperm(count, device=inputs.query.device)[:limit].sort().values

    def _detector_parameters(self, inputs: RefinerInput) -> Tensor | None:
        mlp = self.stage2_controller or self.detector_controller
        if mlp is None:
            return None
        query: Tensor | None = inputs.query
        if self.detector_kind == "frame_query":
            query = inputs.box_query
            if query is None:
                raise ValueError("DETECTOR frame_query needs the box queries of the tracklets.")
        parameters: Tensor = mlp(query)
        return parameters

    def level_sizes(self, inputs: RefinerInput) -> tuple[tuple[int, int], ...]:
        """(h, w) at strides 8, 4 and 2."""
        h8, w8 = inputs.coarse_logits.shape[-2:]
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
        return region_levels(
            inputs.masks_gt, STRIDES, sizes, self.region, self.region_rule, self.region_closed
        )

    def _grow(
        self,
        inputs: RefinerInput,
        rows: slice,
        parameters: Tensor | None,
        regions: Sequence[Tensor],
        source: TrainNodes,
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
            found = self._detect(level, maps[level], prob, centres_px, window, parameters)
            score = prob.new_full(probs[level].shape, OUTSIDE, dtype=torch.float32)
            if not regions or source != "truth":
                window.crop(score, level).copy_(found.detach().sigmoid())
            known = [inputs.given] if source == "detected" else [inputs.given, regions]
            score = _with_known(score, [cells[level:] for cells in known], rows)
            scores.append(score)
            if self.training:
                logits.append(found)
            if level == 0:
                if not self.training:
                    window = window_around(score >= self.thresholds[0], WINDOW_MARGIN)
                maps[1:] = self._fine_features(inputs, rows, window, maps[1], maps[2])
        budget = self.train_frame_points if self.training else 0
        tree = build_quadtree(scores, self.thresholds, budget)
        tokens, coarse = [], []
        for level, (feature_map, prob) in enumerate(zip(maps, probs, strict=True)):
            n, t, y, x = tree.cells((tree.level == level).nonzero()[:, 0])
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
        return backbone_map if self.train_maps else backbone_map.detach()

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
        cells += cells.new_tensor([left_px, top_px])[:, None, None]

        def rows_of(top: int, bottom: int) -> Tensor:
            offsets = (centres_px[..., None, None] - cells[:, top:bottom]) / self.offset_unit_px
            own = torch.cat([offsets, prob[:, :, None, top:bottom]], dim=2)
            part = features[..., top:bottom, :]
            found: Tensor = self.detector(LEVELS[level], part, own, parameters)
            return found

        return in_row_strips(rows_of, h, self.detector.halo, N * t * DETECTOR_WIDTH * w)

    def _within_budget(self, tree: SequenceQuadtree) -> tuple[SequenceQuadtree, Tensor]:
        """The nodes that are refined, in sequence, and which of ``tree``'s they are."""
        limit, priority = self.max_points * math.ceil(tree.num_frames / BUDGET_FRAMES), tree.score
        if self.training:
            limit, priority = self.train_points, torch.rand_like(tree.score)
        kept = best_nodes(tree, limit, priority)
        self.count_points(len(tree), len(kept))
        chosen = kept[tree.select(kept).sequence_order()]
        return tree.select(chosen), chosen

    def _refine_nodes(
        self, inputs: RefinerInput, tree: SequenceQuadtree, tokens: Tensor, coarse: Tensor
    ) -> Tensor:
        """(P, C) tokens and (P,) coarse probabilities -> (P,) logits; tracklets on their own."""
        parameters = self.controller(inputs.query)
        logits = [coarse.new_zeros(0)]
        for part in _groups(tree.lengths(), 0 if torch.is_grad_enabled() else NODES_AT_ONCE):
            nodes = tree.select(torch.arange(part.start, part.stop, device=tree.level.device))
            position = self.node_encoder.position(nodes, with_time=self.grouped).to(tokens.dtype)
            sequences = nodes.lengths(per_frame=not self.grouped)
            blocks = [
                nodes.blocks(self.window, shift, per_frame=not self.grouped)
                for shift in ((0, self.window // 2) if self.window else ())
            ]
            centres_px = inputs.centres_px.detach()[nodes.tracklet, nodes.frame]
            offsets = centres_px - nodes.centres_px(STRIDES)
            if self.reach_px:
                position = torch.cat([position.float(), offsets.flip(1)], 1)
            x = self.encoder(
                tokens[part], position, sequences, inputs.query, nodes.tracklet, blocks
            )
            offsets = offsets / self.offset_unit_px
            logits.append(self.decoder(x, offsets, coarse[part], parameters, nodes.lengths()))
        return torch.cat(logits)


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
    """Per level (N, t, h, w), as they are given or from the coarsest down."""
    if inputs.coarse_levels:
        levels = zip(inputs.coarse_levels, sizes, strict=True)
        return [level[:, rows, :h, :w] for level, (h, w) in levels]
    probs = [inputs.coarse_logits[:, rows].detach().sigmoid()]
    for size in sizes[1:]:
        probs.append(to_next_level(probs[-1], size))
    return probs


def _groups(lengths: Sequence[int], limit: int) -> list[slice]:
    """Slices of neighbouring sequences with at most ``limit`` tokens or one sequence; 0: all."""
    bounds = [0]
    end = 0
    for length in lengths:
        if limit and end > bounds[-1] and end + length - bounds[-1] > limit:
            bounds.append(end)
        end += length
    return [slice(a, b) for a, b in pairwise([*bounds, end]) if b > a]


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
