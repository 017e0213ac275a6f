"""What the quadtree refiner did to a clip: its nodes, what it changed, and where nodes looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vmt.layers.transformer import SelfAttention
from vmt.modeling.refiners.quadtree.refiner import STRIDES, QuadtreeRefiner
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree
from vmt.visualization.colors import ADDED, REMOVED, Rgb
from vmt.visualization.draw import titled

Frame = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

#: Nodes at H/8, H/4 and H/2.
LEVEL_COLORS: tuple[Rgb, ...] = ((255, 210, 50), (255, 120, 40), (255, 40, 90))
MASK_COLOR: Rgb = (64, 156, 255)
_TITLES = ("coarse mask", "nodes: H/8 yellow, H/4 orange, H/2 red", "refined mask")
_DIFFERENCE = "green added, red removed"


def refinement_row(
    frame: Frame, coarse: Mask, refined: Mask, tree: SequenceQuadtree, tracklet: int, index: int
) -> Frame:
    """Coarse mask | nodes by level | refined mask | difference, side by side under titles.

    Args:
        frame: (H, W, 3) uint8 RGB.
        coarse: (H, W).
        refined: (H, W).
        tree: of the clip.
        tracklet: whose nodes.
        index: of the frame in the clip.

    Returns:
        (H + 22, 4 W, 3) uint8.
    """
    grey = np.repeat(frame.mean(2, keepdims=True) * 0.45, 3, axis=2).astype(np.uint8)
    nodes = _paint_nodes(grey, tree, tracklet, index)
    change = grey.copy()
    change[refined & ~coarse] = ADDED
    change[coarse & ~refined] = REMOVED
    panels = [_overlay(frame, coarse), nodes, _overlay(frame, refined), change]
    count = int(((tree.tracklet == tracklet) & (tree.frame == index)).sum())
    titles = [_TITLES[0], f"{_TITLES[1]} ({count})", _TITLES[2], _DIFFERENCE]
    return np.concatenate(
        [titled(p, f"frame {index}  {t}") for p, t in zip(panels, titles, strict=True)], axis=1
    )


def _overlay(frame: Frame, mask: Mask) -> Frame:
    painted = frame.copy()
    painted[mask] = (0.5 * frame[mask] + 0.5 * np.array(MASK_COLOR)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, contours, -1, (255, 255, 255), 1)
    return painted


def _paint_nodes(frame: Frame, tree: SequenceQuadtree, tracklet: int, index: int) -> Frame:
    painted = frame.copy()
    for level, (stride, color) in enumerate(zip(STRIDES, LEVEL_COLORS, strict=True)):
        chosen = (tree.tracklet == tracklet) & (tree.frame == index) & (tree.level == level)
        cells = np.zeros(tree.sizes[level], dtype=np.uint8)
        cells[tree.y[chosen].cpu().numpy(), tree.x[chosen].cpu().numpy()] = 1
        pixels = cells.repeat(stride, 0).repeat(stride, 1)[: frame.shape[0], : frame.shape[1]]
        pixels = np.pad(
            pixels, [(0, a - b) for a, b in zip(frame.shape, pixels.shape, strict=False)]
        )
        painted[pixels > 0] = color
    return painted


# --- where a node looked -------------------------------------------------------------------------


class LastAttention:
    """Keeps what the last node attention layer reads while a clip is refined.

    Use as a context manager around a call of the refiner.

    Args:
        refiner: the model's.
    """

    def __init__(self, refiner: QuadtreeRefiner) -> None:
        layer = refiner.encoder.layers[-1].get_submodule("self_attn")
        assert isinstance(layer, SelfAttention), "node attention is self attention"
        self.layer = layer
        self.encoder = refiner.encoder
        #: Tokens (S, C), positions (S, C) and places in the tree (S,) of every sequence.
        self.sequences: list[tuple[Tensor, Tensor, Tensor]] = []
        self._nodes = 0
        self._order = torch.zeros(0, dtype=torch.int64)

    def __enter__(self) -> LastAttention:
        def start(module: nn.Module, args: tuple[Any, ...]) -> None:
            x, blocks = args[0], args[5]
            order = torch.arange(len(x), device=x.device)
            if blocks:
                last = len(self.encoder.layers) - 1
                order = blocks[last % len(blocks)].order
            self._order = order + self._nodes
            self._nodes += len(x)

        def keep(module: nn.Module, args: tuple[Tensor, Tensor, list[int]]) -> None:
            x, position, lengths = args
            parts = (x[0].split(lengths), position[0].split(lengths), self._order.split(lengths))
            self.sequences += zip(*parts, strict=True)

        self._hooks = [
            self.encoder.register_forward_pre_hook(start),
            self.layer.register_forward_pre_hook(keep),
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def weights(self, node: int) -> tuple[Tensor, Tensor]:
        """How much a node read of every node of its sequence, mean over heads.

        Args:
            node: index into the tree that the refiner gave.

        Returns:
            (S,) indices of the sequence's nodes, and (S,) weights that add up to 1.
        """
        for x, position, nodes in self.sequences:
            here = (nodes == node).nonzero()[:, 0]
            if len(here):
                return nodes, self.layer.weights_of(x, position, int(here[0]))
        raise ValueError(f"node {node} is not among the {self._nodes} nodes that were refined.")


@dataclass(frozen=True)
class Place:
    """A pixel of a clip.

    Args:
        frame: index in the clip.
        y: row in pixels.
        x: column in pixels.
    """

    frame: int
    y: int
    x: int


def nearest_node(tree: SequenceQuadtree, tracklet: int, place: Place) -> int | None:
    """The node of a tracklet nearest to a pixel; of equals the finest. None without nodes there."""
    inside = ((tree.tracklet == tracklet) & (tree.frame == place.frame)).nonzero()[:, 0]
    if not len(inside):
        return None
    centres = tree.centres_px(STRIDES)[inside].float()
    distance = (centres - centres.new_tensor([place.x, place.y])).norm(dim=1)
    return int(inside[(distance - 1e-3 * tree.level[inside]).argmin()])


def attention_picture(
    frames: list[Frame], tree: SequenceQuadtree, node: int, others: Tensor, weights: Tensor
) -> Frame:
    """All frames side by side; a white cross on the node, a disc on each node that it read most.

    Args:
        frames: (H, W, 3) uint8 RGB each, the clip.
        tree: of the clip.
        node: that looked.
        others: (k,) int64, where it looked.
        weights: (k,) attention weights; the area of a disc grows with them.

    Returns:
        (H + 22, T * W, 3) uint8.
    """
    centres = tree.centres_px(STRIDES).tolist()
    panels = []
    for t, frame in enumerate(frames):
        panel = (frame * 0.6).astype(np.uint8)
        here = [
            (other, weight)
            for other, weight in zip(others.tolist(), weights.tolist(), strict=True)
            if int(tree.frame[other]) == t
        ]
        for other, weight in here:
            radius = round(3 + 9 * (weight / float(weights.max())) ** 0.5)
            x, y = centres[other]
            color = LEVEL_COLORS[int(tree.level[other])]
            cv2.circle(panel, (x, y), radius, color, 2, cv2.LINE_AA)
            cv2.circle(panel, (x, y), 1, color, -1)
        if int(tree.frame[node]) == t:
            x, y = centres[node]
            cv2.drawMarker(panel, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 19, 2, cv2.LINE_AA)
        share = sum(weight for _, weight in here)
        count = f"{len(here)} of the top {len(others)}"
        panels.append(titled(panel, f"frame {t}  {count}, weight {share:.2%}"))
    return np.concatenate(panels, axis=1)


@torch.no_grad()
def top_attended(attention: LastAttention, node: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` nodes that a node read most: (k,) indices into the tree and (k,) weights."""
    nodes, weights = attention.weights(node)
    best = weights.topk(min(k, len(weights)))
    return nodes[best.indices], best.values
