"""Quadtrees one cell at a time: slow, obvious, independent of ``vmt.modeling.refiners``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Node = tuple[int, int, int, int, int]  # tracklet, frame, level, y, x


def slow_tree(scores: Sequence[Tensor], thresholds: Sequence[float]) -> dict[Node, Node | None]:
    """Every node with its parent."""
    nodes: dict[Node, Node | None] = {}

    def grow(n: int, t: int, level: int, y: int, x: int, parent: Node | None) -> None:
        h, w = scores[level].shape[-2:]
        if y >= h or x >= w or scores[level][n, t, y, x].item() < thresholds[level]:
            return
        node = (n, t, level, y, x)
        nodes[node] = parent
        if level + 1 < len(scores):
            for a in (0, 1):
                for b in (0, 1):
                    grow(n, t, level + 1, 2 * y + a, 2 * x + b, node)

    num_tracklets, num_frames, h, w = scores[0].shape
    for n in range(num_tracklets):
        for t in range(num_frames):
            for y in range(h):
                for x in range(w):
                    grow(n, t, 0, y, x, None)
    return nodes


def slow_limit(
    nodes: dict[Node, Node | None], priority: dict[Node, float], max_points: int
) -> set[Node]:
    """The best nodes per tracklet; a node is worth no more than any of its ancestors."""

    def worth(node: Node) -> float:
        parent = nodes[node]
        own = priority[node]
        return own if parent is None else min(own, worth(parent))

    kept: set[Node] = set()
    for tracklet in {node[0] for node in nodes}:
        own = [node for node in nodes if node[0] == tracklet]
        own.sort(key=lambda node: (-worth(node), node[2], node[1], node[3], node[4]))
        kept.update(own[:max_points])
    return kept


def slow_write_back(
    logits: dict[Node, float],
    coarse: Tensor,
    sizes: Sequence[tuple[int, int]],
    first: int = 0,
) -> list[list]:
    """Per level from ``first`` on, where ``coarse`` is, nested lists [tracklet][frame][y][x]."""
    num_tracklets, num_frames = coarse.shape[:2]
    levels = []
    maps = coarse.tolist()
    for level, (h, w) in list(enumerate(sizes))[first:]:
        if level > first:
            maps = [[double(frame, h, w) for frame in tube] for tube in maps]
        for n in range(num_tracklets):
            for t in range(num_frames):
                for y in range(h):
                    for x in range(w):
                        value = logits.get((n, t, level, y, x))
                        if value is not None:
                            maps[n][t][y][x] = value
        levels.append([[[list(row) for row in frame] for frame in tube] for tube in maps])
    return levels


def double(frame: list[list[float]], h: int, w: int) -> list[list[float]]:
    """Cell (y, x) reads the coarser map at its own centre, at most the outermost cell's."""
    rows, cols = len(frame), len(frame[0])

    def taps(cell: int, length: int) -> list[tuple[int, float]]:
        neighbour = cell // 2 + (1 if cell % 2 else -1)
        return [(cell // 2, 0.75), (min(max(neighbour, 0), length - 1), 0.25)]

    return [
        [
            sum(wy * wx * frame[i][j] for i, wy in taps(y, rows) for j, wx in taps(x, cols))
            for x in range(w)
        ]
        for y in range(h)
    ]
