"""From detector scores to quadtrees, and how many of their nodes stay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vmt.modeling.refiners.quadtree.tree import ROOT, SequenceQuadtree, tree_of


@torch.no_grad()
def build_quadtree(
    scores: Sequence[Tensor],
    thresholds: Sequence[float],
    max_per_frame: int = 0,
    generator: torch.Generator | None = None,
) -> SequenceQuadtree:
    """Every cell that the detector marks and whose parent is a node becomes a node.

    Source: arXiv:2207.14012, section 3.1: roots at H/8, branched into quadrants down to H/2.

    Args:
        scores: per level (N, T, h, w), coarse to fine; every cell has its parent (2h' >= h).
        thresholds: per level, the score from which a cell is incoherent.
        max_per_frame: most nodes per tracklet, frame and level, drawn at random (training); 0: all.
        generator: for the draw; None takes the device's own.

    Returns:
        Nodes by level, then tracklet, frame, row and column.

    Raises:
        ValueError: counts or sizes of the levels do not fit together.
    """
    sizes = tuple((int(level.shape[-2]), int(level.shape[-1])) for level in scores)
    _check_levels(sizes, thresholds)
    N, T = scores[0].shape[:2]
    marked: list[Tensor] = []
    for level, threshold, size in zip(scores, thresholds, sizes, strict=True):
        cells = level >= threshold
        if marked:
            cells &= _children(marked[-1], size)
        if max_per_frame > 0:
            cells = _drawn(cells, max_per_frame, generator)
        marked.append(cells)
    # the one wait for the device: how many nodes there are, of all levels
    counts = torch.stack([cells.sum((2, 3)) for cells in marked], 2).cpu()
    columns: list[tuple[Tensor, ...]] = []
    node_of_cell: Tensor | None = None
    first = 0
    for number, (level, cells) in enumerate(zip(scores, marked, strict=True)):
        count = int(counts[..., number].sum())
        n, t, y, x = torch.nonzero_static(cells, size=count).unbind(1)
        parent = torch.full_like(n, ROOT)
        if node_of_cell is not None:
            parent = node_of_cell[n, t, y // 2, x // 2]
        columns.append((n, t, torch.full_like(n, number), y, x, level[n, t, y, x].float(), parent))
        node_of_cell = torch.full(cells.shape, ROOT, device=n.device)
        node_of_cell[n, t, y, x] = torch.arange(first, first + count, device=n.device)
        first += count
    joined = [torch.cat(column) for column in zip(*columns, strict=True)]
    return tree_of(joined, N, T, sizes, counts)


def _drawn(cells: Tensor, max_per_frame: int, generator: torch.Generator | None) -> Tensor:
    """(N, T, h, w) bool -> as many of the marked ones of each frame, at random."""
    n, t, y, x = cells.nonzero(as_tuple=True)
    draw = torch.rand(len(n), device=n.device, generator=generator)
    drawn = torch.zeros_like(cells)
    drawn[n, t, y, x] = rank_in_group(n * cells.shape[1] + t, draw) < max_per_frame
    return drawn


def _check_levels(sizes: Sequence[tuple[int, int]], thresholds: Sequence[float]) -> None:
    if not sizes or len(sizes) != len(thresholds):
        raise ValueError(f"quadtree: {len(sizes)} levels, but {len(thresholds)} thresholds.")
    for coarse, fine in pairwise(sizes):
        if any(2 * a < b for a, b in zip(coarse, fine, strict=True)):
            raise ValueError(
                f"quadtree: a level of {coarse[0]} x {coarse[1]} cells cannot hold the parents of "
                f"{fine[0]} x {fine[1]}; each level has at most twice the cells per side."
            )


def _children(nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, T, h, w) bool -> the cells of the next level below them, cut to its ``size``."""
    below = nodes.repeat_interleave(2, -2).repeat_interleave(2, -1)
    return below[..., : size[0], : size[1]]


def rank_in_group(group: Tensor, priority: Tensor) -> Tensor:
    """Place of each entry within its group, highest priority first.

    Args:
        group: (P,) int64.
        priority: (P,) float; of equals the earlier entry comes first.

    Returns:
        (P,) int64, from 0 in every group.
    """
    order = priority.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    position = torch.arange(len(group), device=group.device)
    first = torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(position)
    rank[order] = position - first
    return rank


@torch.no_grad()
def best_nodes(tree: SequenceQuadtree, max_points: int, priority: Tensor) -> Tensor:
    """At most ``max_points`` nodes per tracklet, and with every node its parent.

    A node counts no more than its parent does, so that the best nodes always form trees. Of
    equals, the coarser come first, then the order of ``tree``: nothing is left to chance.

    Args:
        tree: in any order.
        max_points: limit; 0 keeps all.
        priority: (P,) float, what counts; NaN is not allowed.

    Returns:
        (P',) int64, ascending, for ``SequenceQuadtree.select``.
    """
    lengths = tree.lengths()
    if max_points <= 0 or max(lengths, default=0) <= max_points:
        return torch.arange(len(tree), device=tree.level.device)
    value = priority.clone()
    for level in range(1, len(tree.sizes)):
        at_level = tree.level == level
        bounded = torch.minimum(value, value[tree.parent.clamp(min=0)])
        value = torch.where(at_level, bounded, value)
    by_level = tree.level.argsort(stable=True)
    rank = torch.empty_like(tree.level)
    rank[by_level] = rank_in_group(tree.tracklet[by_level], value[by_level])
    stay = sum(min(length, max_points) for length in lengths)
    return torch.nonzero_static(rank < max_points, size=stay)[:, 0]
