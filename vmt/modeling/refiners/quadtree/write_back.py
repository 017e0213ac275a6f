"""Quadtree propagation: from node logits and coarse masks to masks at the finest level."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree
from vmt.ops.frames import frame_chunks


def to_next_level(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Double the resolution, bilinear, so that cell (y, x) lies below cell (y // 2, x // 2).

    Args:
        maps: (N, T, h, w).
        size: (h', w') of the next level, at most (2h, 2w).

    Returns:
        (N, T, h', w').
    """
    if 0 in maps.shape:
        doubled = maps.new_zeros((*maps.shape[:2], 2 * maps.shape[2], 2 * maps.shape[3]))
    else:
        doubled = F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
    return doubled[..., : size[0], : size[1]]


def write_back(
    tree: SequenceQuadtree,
    node_logits: Tensor,
    coarse_logits: Tensor,
    frame_chunk: int = 0,
    first: int = 0,
) -> list[Tensor]:
    """Replace the coarse logits at the nodes, level after level; only nodes and what lies below.

    Source: Mask Transfiner, arXiv:2111.13673, section 3.4, "quadtree propagation".

    Args:
        tree: P nodes.
        node_logits: (P,).
        coarse_logits: (N, T, h, w) at level ``first``.
        frame_chunk: frames at once; 0: all. Changes nothing but memory.
        first: level from which on the mask is known; nodes above it write nothing, since what lies
            below them is known better.

    Returns:
        Per level from ``first`` on (N, T, h_l, w_l) logits.
    """
    sizes = tree.sizes[first:]
    out = [coarse_logits.new_empty((*coarse_logits.shape[:2], *size)) for size in sizes]
    node_logits = node_logits.to(coarse_logits.dtype)
    by_level = (tree.level * tree.num_frames + tree.frame).argsort(stable=True)
    ends = tree.counts.sum(0).t().flatten().cumsum(0)
    ends = ends.view(len(tree.sizes), tree.num_frames)
    for rows in frame_chunks(tree.num_frames, frame_chunk):
        maps = coarse_logits[:, rows]
        for index, size in enumerate(sizes):
            maps = to_next_level(maps, size) if index else maps.clone()
            level = first + index
            end = int(ends[level, rows.stop - 1])
            nodes = by_level[end - int(tree.counts[:, rows, level].sum()) : end]
            n, t, y, x = tree.cells(nodes)
            maps[n, t - rows.start, y, x] = node_logits[nodes]
            out[index][:, rows] = maps
    return out
