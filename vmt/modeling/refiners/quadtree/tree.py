"""The nodes of all quadtrees of a clip as flat tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vmt.utils.device import constant

#: ``parent`` of a node at the coarsest level.
ROOT = -1
_PER_NODE = ("tracklet", "frame", "level", "y", "x", "score", "parent")


@dataclass(frozen=True)
class SequenceQuadtree:
    """Quadtrees of N tracklets over T frames: P nodes, each a cell of one level in one frame.

    Cell (y, x) of a level covers the cells (2y + a, 2x + b), a and b in {0, 1}, of the next one, as
    far as they exist. A node is there only if its parent is.
    Source: Video Mask Transfiner, arXiv:2207.14012, section 3.1, "Quadtree Sequence Grouping".

    Args:
        tracklet: (P,) int64 in [0, N).
        frame: (P,) int64 in [0, T).
        level: (P,) int64, 0 is the coarsest.
        y: (P,) int64, row in the map of the level.
        x: (P,) int64, column.
        score: (P,) float in [0, 1], how sure the detector was of this cell.
        parent: (P,) int64, index of the parent among the P nodes; ``ROOT`` at level 0.
        num_tracklets: N.
        num_frames: T.
        sizes: (h, w) of the map of every level, coarse to fine.
        known_counts: see ``counts``; None where nobody knows them yet.
    """

    tracklet: Tensor
    frame: Tensor
    level: Tensor
    y: Tensor
    x: Tensor
    score: Tensor
    parent: Tensor
    num_tracklets: int
    num_frames: int
    sizes: tuple[tuple[int, int], ...]
    known_counts: Tensor | None = None

    def __len__(self) -> int:
        return int(self.tracklet.shape[0])

    @cached_property
    def counts(self) -> Tensor:
        """(N, T, L) int64 in the host's memory: nodes of each level of a frame of a tracklet.

        Where they are not known, reading them waits for the device, once.
        """
        if self.known_counts is not None:
            return self.known_counts
        shape = (self.num_tracklets, self.num_frames, len(self.sizes))
        key = (self.tracklet * shape[1] + self.frame) * shape[2] + self.level
        counted = key.new_zeros(math.prod(shape)).index_add_(0, key, torch.ones_like(key))
        return counted.view(shape).cpu()

    def select(self, index: Tensor) -> SequenceQuadtree:
        """The nodes at ``index`` in that order.

        Args:
            index: (P',) int64, distinct; with every node its parent.
        """
        place = torch.full_like(self.parent, ROOT)
        place[index] = torch.arange(len(index), device=index.device)
        parent = self.parent[index]
        moved = torch.where(parent >= 0, place[parent.clamp(min=0)], parent)
        columns = [getattr(self, name)[index] for name in _PER_NODE[:-1]]
        known = self.known_counts if len(index) == len(self) else None
        return tree_of([*columns, moved], self.num_tracklets, self.num_frames, self.sizes, known)

    def of_tracklets(self, first: int, last: int) -> SequenceQuadtree:
        """The nodes of tracklets [first, last), a view; tracklets lie one after another here.

        The other tracklets are still among the N, without nodes.
        """
        lengths = self.lengths()
        nodes = slice(sum(lengths[:first]), sum(lengths[:last]))
        parent = self.parent[nodes]
        if nodes.start:
            parent = torch.where(parent >= 0, parent - nodes.start, parent)
        columns = [getattr(self, name)[nodes] for name in _PER_NODE[:-1]]
        counts = torch.zeros_like(self.counts)
        counts[first:last] = self.counts[first:last]
        return tree_of([*columns, parent], self.num_tracklets, self.num_frames, self.sizes, counts)

    def sequence_order(self, nodes: Tensor | None = None) -> Tensor:
        """Order by tracklet, then frame, level, row and column, for ``select``.

        Args:
            nodes: (K,) int64, these alone, K places among them are given; None: all.
        """
        height, width = self.sizes[-1]
        key = self.tracklet * self.num_frames + self.frame
        key = key * len(self.sizes) + self.level
        key = (key * height + self.y) * width + self.x
        return (key if nodes is None else key[nodes]).argsort()

    def lengths(self, per_frame: bool = False) -> list[int]:
        """Nodes of every tracklet, or of every frame of every tracklet."""
        per_level = self.counts.flatten(0, 1) if per_frame else self.counts.flatten(1)
        lengths: list[int] = per_level.sum(1).tolist()
        return lengths

    def blocks(self, side: int, shift: int = 0, per_frame: bool = False) -> Tensor:
        """(P,) int64, equal for nodes of one tracklet whose roots lie in one square of cells.

        Args:
            side: of a square, in cells of the coarsest level; it stands in all frames.
            shift: the grid of squares begins so many cells beyond the map's corner.
            per_frame: every frame has squares of its own.
        """
        y, x = ((place >> self.level) + shift for place in (self.y, self.x))
        rows, columns = ((size + shift - 1) // side + 1 for size in self.sizes[0])
        key = self.tracklet
        if per_frame:
            key = key * self.num_frames + self.frame
        return (key * rows + y // side) * columns + x // side

    def at_level(self, level: int) -> Tensor:
        """(K,) int64, the nodes of a level, ascending."""
        count = int(self.counts[..., level].sum())
        return torch.nonzero_static(self.level == level, size=count)[:, 0]

    def cells(self, nodes: Tensor | slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(tracklet, frame, y, x) of some nodes, an index into maps (N, T, h, w) of their level.

        Args:
            nodes: (K,) int64, a slice, or (P,) bool, for which the host waits.
        """
        return self.tracklet[nodes], self.frame[nodes], self.y[nodes], self.x[nodes]

    def centres_px(self, strides: Sequence[int]) -> Tensor:
        """Input pixel that each node stands for, (P, 2) as (x, y): stride * cell + stride // 2.

        Args:
            strides: input pixels per cell of every level.
        """
        stride = constant(tuple(strides), self.level)[self.level]
        places = torch.stack([self.x, self.y], dim=1)
        return places * stride[:, None] + stride[:, None] // 2

    def share_of_cells(self) -> list[float]:
        """Share of the cells of each level that are nodes, in [0, 1]; last, that of all levels."""
        volume = self.num_tracklets * self.num_frames
        cells = [volume * h * w for h, w in self.sizes]
        counts = self.counts.sum((0, 1)).tolist()
        pairs = [*zip(counts, cells, strict=True), (sum(counts), sum(cells))]
        return [count / max(total, 1) for count, total in pairs]


def join_frames(parts: Sequence[SequenceQuadtree]) -> SequenceQuadtree:
    """Trees of consecutive frames -> the tree of all of them.

    Args:
        parts: at least one; the same tracklets and sizes in each.

    Returns:
        Nodes in the order of the parts.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in _PER_NODE}
    frames = nodes = 0
    for part in parts:
        for name in _PER_NODE:
            columns[name].append(getattr(part, name))
        columns["frame"][-1] = part.frame + frames
        columns["parent"][-1] = torch.where(part.parent >= 0, part.parent + nodes, part.parent)
        frames += part.num_frames
        nodes += len(part)
    joined = [torch.cat(columns[name]) for name in _PER_NODE]
    counts = torch.cat([part.counts for part in parts], 1)
    return tree_of(joined, parts[0].num_tracklets, frames, parts[0].sizes, counts)


def tree_of(
    columns: Sequence[Tensor],
    num_tracklets: int,
    num_frames: int,
    sizes: tuple[tuple[int, int], ...],
    counts: Tensor | None = None,
) -> SequenceQuadtree:
    """Put a tree together.

    Args:
        columns: (P,) tensors in the order of the fields of ``SequenceQuadtree``.
        num_tracklets: N.
        num_frames: T.
        sizes: (h, w) of every level.
        counts: see ``SequenceQuadtree.counts``, where they are known.
    """
    tracklet, frame, level, y, x, score, parent = columns
    return SequenceQuadtree(
        tracklet, frame, level, y, x, score, parent, num_tracklets, num_frames, sizes, counts
    )
