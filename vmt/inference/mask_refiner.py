"""Coarse masks in, sharp masks out: the refiner over videos of any length."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vmt.config.node import load_config
from vmt.inference.load import model_from_config
from vmt.inference.neighbours import settle_borders
from vmt.inference.pretrained import config_beside
from vmt.inference.refine_defaults import (
    ACCEPT,
    MAX_GROWTH,
    MIN_IOU,
    SHIPPED,
    WINDOW,
    weights_path,
)
from vmt.inference.window_votes import Vote, mean_vote, tubes_on_host, votes_of
from vmt.inference.windows import iter_windows
from vmt.modeling.meta_arch.build import build_mask_refiner
from vmt.modeling.video_model import MaskRefinerModel
from vmt.ops.flow_votes import Flow, flows_between, grey_for_flow, votes_for
from vmt.ops.strips import values_at_once
from vmt.utils.device import resolve_device, to_device
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

#: Frames that a window has in common with the next.
OVERLAP = 1


@dataclass(frozen=True)
class RefinedFrame:
    """What became of the N tracklets in one frame.

    Args:
        masks: (N, H, W) bool; where a tracklet had no mask there is none.
        confidence: (N,) float in [0.5, 1], mean of max(p, 1 - p) over the pixels that were looked
            at; 1.0 where none was.
        changed_px: (N,) int64, pixels that differ from the coarse mask.
        rejected: (N,) bool, the result was thrown away (empty, or too far from the coarse mask),
            ``masks`` has the coarse one.
        confidence_map: (H, W) uint8, 255 * max(p, 1 - p) of each pixel, the lowest of all
            tracklets: from 128, a toss-up, to 255, which also have pixels that were not looked at.
    """

    masks: BoolArray
    confidence: npt.NDArray[np.float64]
    changed_px: npt.NDArray[np.int64]
    rejected: BoolArray
    confidence_map: ByteArray


class FrameRefiner(Protocol):
    """Anything that sharpens the masks of a video frame by frame."""

    def stream(
        self,
        frames: Iterable[ByteArray],
        masks: Iterable[BoolArray],
        *,
        accept: float = ACCEPT,
        window: int = WINDOW,
    ) -> Iterator[RefinedFrame]:
        """Refine a video of any length in memory that does not grow with it.

        Args:
            frames: (H, W, 3) uint8 RGB, all of one size.
            masks: (N, H, W) bool per frame, as many as frames; row n is the same tracklet
                throughout, all False where it is absent or must not be touched.
            accept: confidence above which a pixel takes its new label; below it the coarse one
                stays.
            window: frames refined together.

        Yields:
            One result per frame, in order, as soon as its windows are done.

        Raises:
            ValueError: sizes or counts disagree.
        """
        ...


@dataclass(frozen=True)
class RefinedClip:
    """``RefinedFrame`` of T frames.

    Args:
        masks: (N, T, H, W) bool.
        confidence: (N, T) float.
        changed_px: (N, T) int64.
        rejected: (N, T) bool.
        confidence_map: (T, H, W) uint8.
    """

    masks: BoolArray
    confidence: npt.NDArray[np.float64]
    changed_px: npt.NDArray[np.int64]
    rejected: BoolArray
    confidence_map: ByteArray


@dataclass
class _FrameInWindow:
    """A frame until its last window is done.

    Args:
        frame: (3, H, W) uint8.
        coarse: (N, H, W) bool, as given.
        said: (N, 2, H, W) uint8, what its neighbours say of its masks, see ``vmt.ops.flow_votes``;
            None where the network does not ask.
        votes: of the windows so far, per tracklet.
    """

    frame: Tensor
    coarse: BoolArray
    said: ByteArray | None = None
    votes: list[list[Vote]] = field(init=False)

    def __post_init__(self) -> None:
        self.votes = [[] for _ in self.coarse]


class MaskRefiner:
    """Sharpens masks of any class and from any source.

    A network that asks for votes hears what the masks of neighbouring frames say, brought into
    place by optical flow. Windows of several frames overlap by one, whose probabilities are
    averaged with weights that fall from the middle of a window to its ends. Pixels change only near
    a contour, where masks disagree or where the network finds detail, and only where it is sure
    (Video Mask Transfiner, arXiv:2207.14012, section 3.2).

    Args:
        network: in evaluation mode.

    Example:
        ``refined = vmt.MaskRefiner.from_pretrained().refine(frames, masks)``
    """

    def __init__(self, network: MaskRefinerModel) -> None:
        self.network = network

    @classmethod
    def from_pretrained(cls, weights: str | Path = SHIPPED, device: str = "auto") -> MaskRefiner:
        """Load a network.

        Args:
            weights: those that come with the package, or the file of a training, with its
                ``config.yaml`` (or ``<name>.yaml``) beside it.
            device: a torch device name or "auto".

        Raises:
            ConfigError: no config beside the weights, or it is not of a mask refiner; weights of
                the package that were removed.
            CheckpointError: the weights cannot be used.
        """
        path = weights_path(weights)
        config = config_beside(path)
        cfg = load_config(config, ["MODEL.WEIGHTS", str(path)])
        place = resolve_device(device)
        try:
            network = model_from_config(cfg, build_mask_refiner, config.parent, place)
        except ConfigError as error:
            raise ConfigError(f"{config}: {error}") from None
        return cls(network)

    def refine(
        self,
        frames: npt.NDArray[np.uint8] | Sequence[ByteArray],
        masks: BoolArray,
        *,
        accept: float = ACCEPT,
        window: int = WINDOW,
    ) -> RefinedClip:
        """``stream`` over a clip that is in memory.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            masks: (N, T, H, W) bool.
            accept: see ``FrameRefiner.stream``.
            window: frames refined together.

        Raises:
            ValueError: sizes or counts disagree.
        """
        masks = np.asarray(masks)
        if masks.ndim != 4:
            raise ValueError(
                f"masks must be (tracklets, frames, height, width), not of shape {masks.shape}; "
                "masks[None] makes one tracklet of (frames, height, width)."
            )
        per_frame = (masks[:, t] for t in range(masks.shape[1]))
        done = list(self.stream(frames, per_frame, accept=accept, window=window))
        if not done:
            raise ValueError("there are no frames.")
        return RefinedClip(
            masks=np.stack([frame.masks for frame in done], axis=1),
            confidence=np.stack([frame.confidence for frame in done], axis=1),
            changed_px=np.stack([frame.changed_px for frame in done], axis=1),
            rejected=np.stack([frame.rejected for frame in done], axis=1),
            confidence_map=np.stack([frame.confidence_map for frame in done]),
        )

    def stream(
        self,
        frames: Iterable[ByteArray],
        masks: Iterable[BoolArray],
        *,
        accept: float = ACCEPT,
        window: int = WINDOW,
    ) -> Iterator[RefinedFrame]:
        """A result per frame, in order; arguments and errors as of ``FrameRefiner``."""
        if window < 1:
            raise ValueError(f"window must be at least 1 frame, not {window}.")
        if not 0.5 <= accept < 1:
            raise ValueError(f"accept must be in [0.5, 1), not {accept}.")
        pairs = _pairs(frames, masks)
        if self.network.votes_reach:
            pairs = _with_votes(pairs, self.network.votes_reach)
        for part in iter_windows(pairs, window, max(window - OVERLAP, 1)):
            self._vote(part.frames)
            for item in part.frames[: part.final_until - part.start]:
                yield _decide(item, accept)
        if left_out := self.network.left_undone():
            logger.warning("%s", left_out)

    def _vote(self, items: Sequence[_FrameInWindow]) -> None:
        """Refine every tracklet of a window; adds to ``votes``."""
        device = self.network.device
        video = to_device(torch.stack([item.frame for item in items]), device)
        coarse = torch.from_numpy(np.stack([item.coarse for item in items], axis=1))
        said = [item.said for item in items if item.said is not None]
        votes = torch.from_numpy(np.stack(said, axis=1)) if said else None
        tubes = self.network.refine_tubes(video, coarse, votes)
        for tube in tubes_on_host(tubes, values_at_once(device)):
            for vote, t in zip(votes_of(tube, len(items)), tube.frames, strict=True):
                items[t].votes[tube.tracklet].append(vote)


def _pairs(frames: Iterable[ByteArray], masks: Iterable[BoolArray]) -> Iterator[_FrameInWindow]:
    """Frames with their masks, checked.

    Raises:
        ValueError: sizes or counts disagree.
    """
    first: _FrameInWindow | None = None
    rest = iter(masks)
    count = 0
    for count, frame in enumerate(frames, start=1):
        mask = next(rest, None)
        if mask is None:
            raise ValueError(f"frame {count} has no masks: give as many as frames.")
        mask = np.asarray(mask)
        if mask.ndim != 3 or mask.shape[1:] != frame.shape[:2]:
            raise ValueError(
                f"frame {count} is {frame.shape[1]}x{frame.shape[0]}, its masks have shape "
                f"{mask.shape}; they must be (tracklets, {frame.shape[0]}, {frame.shape[1]})."
            )
        pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))
        item = _FrameInWindow(pixels, mask.astype(np.bool_))
        first = first or item
        if item.coarse.shape != first.coarse.shape:
            raise ValueError(
                f"frame {count} has masks of shape {mask.shape}, the first {first.coarse.shape}: "
                "size and number of tracklets must not change within a video."
            )
        yield item
    if next(rest, None) is not None:
        raise ValueError(f"there are {count} frames, but masks of more.")


def _with_votes(items: Iterator[_FrameInWindow], reach: int) -> Iterator[_FrameInWindow]:
    """The same, with what ``reach`` neighbours on each side say; at most 2 * reach + 1 wait."""
    near: deque[tuple[_FrameInWindow, ByteArray]] = deque()
    flows: dict[tuple[int, int], Flow] = {}
    first = at = 0  # numbers of near[0], and of the frame that is asked about
    for item in chain(items, [None] * reach):
        if item is not None:
            picture = np.ascontiguousarray(item.frame.numpy().transpose(1, 2, 0))
            near.append((item, grey_for_flow(picture)))
            if first + len(near) - at <= reach:
                continue
        if at - first == len(near):
            break
        own, grey = near[at - first]
        others = [k for k in range(first, first + len(near)) if k != at]
        for k in others:
            if (at, k) not in flows:
                flows[at, k], flows[k, at] = flows_between(grey, near[k - first][1])
        masks = [near[k - first][0].coarse for k in others]
        said = votes_for(own.coarse, masks, [flows[at, k] for k in others], 2 * reach)
        yield replace(own, said=said)
        at += 1
        if at - first > reach:
            near.popleft()
            flows = {pair: flow for pair, flow in flows.items() if min(pair) > first}
            first += 1


def _decide(item: _FrameInWindow, accept: float) -> RefinedFrame:
    """Masks from votes: acceptance, guards, borders, and what is said about them."""
    count = len(item.coarse)
    masks = item.coarse.copy()
    confidence = np.ones(count)
    rejected = np.zeros(count, np.bool_)
    sure_map = np.full(masks.shape[1:], 255, np.uint8)
    means = [mean_vote(votes) if votes else None for votes in item.votes]
    for n, mean in enumerate(means):
        if mean is None:
            continue
        place = (n, mean.rows, mean.columns)
        sure = np.maximum(mean.probability, 1 - mean.probability)
        accepted = mean.looked_at & (sure > accept)
        coarse = item.coarse[place]
        refined = np.where(accepted, mean.probability > 0.5, coarse)
        level = np.where(mean.looked_at, np.rint(255 * sure), 255).astype(np.uint8)
        np.minimum(sure_map[place[1:]], level, out=sure_map[place[1:]])
        if mean.looked_at.any():
            confidence[n] = float(sure[mean.looked_at].mean())
        area, common = np.count_nonzero(refined), np.count_nonzero(refined & coarse)
        least = MIN_IOU * np.count_nonzero(refined | coarse)
        if not area or common < least or area > MAX_GROWTH * np.count_nonzero(coarse):
            rejected[n] = True
            means[n] = None  # what is thrown away has no say about borders either
        else:
            masks[place] = refined
    settle_borders(masks, item.coarse, means)
    changed = np.count_nonzero(masks != item.coarse, axis=(1, 2))
    return RefinedFrame(masks, confidence, changed.astype(np.int64), rejected, sure_map)
