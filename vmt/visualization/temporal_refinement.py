"""A tracklet before and after temporal attention refinement, and which frames it read.

What figures 1 to 3 of RefineVIS (arXiv:2306.04774) show, with the attention in a chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vmt.modeling.temporal.tar import TAR
from vmt.visualization.colors import ADDED, REMOVED, Rgb
from vmt.visualization.draw import titled

Frame = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

BEFORE: Rgb = (255, 144, 30)
AFTER: Rgb = (64, 156, 255)
#: Bars: a frame with the object, one in which it was missed, the frame that asks.
SEEN: Rgb = (120, 128, 140)
MISSED: Rgb = REMOVED
ITSELF: Rgb = AFTER
CHART_PX = 64
#: Columns side by side before the picture goes on below.
COLUMNS = 6
_GAP_PX = 6


@dataclass(frozen=True)
class TrackletFrame:
    """A tracklet in one frame of a clip.

    Args:
        index: of the frame in the video.
        picture: (H, W, 3) uint8 RGB.
        before: (H, W), the mask of the network for frames; None where it missed the object.
        after: (H, W), the refined mask; None where there is none.
        score: of the tracklet's class after refinement, in [0, 1].
        weights: (T,), how much the frame reads of each frame of the clip; they add up to 1, or are
            all 0 where the frame was not refined.
    """

    index: int
    picture: Frame
    before: Mask | None
    after: Mask | None
    score: float
    weights: npt.NDArray[np.float32]

    @property
    def recovered(self) -> bool:
        """Whether the object was missed, and the refined mask has a pixel."""
        return self.before is None and self.after is not None and bool(self.after.any())


def tracklet_picture(frames: Sequence[TrackletFrame]) -> Frame:
    """Frame by frame: the mask before, the mask after, and a chart of the frames that were read.

    Args:
        frames: T of one size, at least one.

    Returns:
        (h, w, 3) uint8; up to ``COLUMNS`` frames side by side, then the next below.
    """
    columns = [_column(frames, t) for t in range(len(frames))]
    blank = np.full_like(columns[0], 255)
    width = min(COLUMNS, len(columns))
    columns += [blank] * (-len(columns) % width)
    rows = [
        np.concatenate(columns[first : first + width], axis=1)
        for first in range(0, len(columns), width)
    ]
    return np.concatenate(rows)


@torch.no_grad()
def frames_read(tar: TAR, embeds: Tensor, window: int, online: bool) -> Tensor:
    """How much each frame of a tracklet reads of each other.

    Args:
        tar: the refinement.
        embeds: (T, C) of the first frames of a video, zero where the tracklet was missed.
        window: W, at least 1.
        online: a frame reads the refined W - 1 frames before it; else those of its clip of W.

    Returns:
        (T, T), rows read columns, mean over heads; 0 before the tracklet began.
    """
    began = int(embeds.any(1).int().argmax())
    count, times = len(embeds), torch.arange(len(embeds), device=embeds.device)
    weights = embeds.new_zeros(count, count)
    done = embeds.clone()
    for t in range(began, count):
        first = max(began, t - window + 1 if online else t - t % window)
        end = t + 1 if online else min(t - t % window + window, count)
        rows = slice(first, end)
        read = (torch.cat([done[first:t], embeds[t:end]]) if online else embeds[rows])[None]
        weights[t, rows] = tar.attention_weights(read, times[rows])[0, :, t - first].mean(0)
        if online:
            done[t] = tar(read, times[rows], last_only=True)[0, 0]
    return weights


def _column(frames: Sequence[TrackletFrame], place: int) -> Frame:
    frame = frames[place]
    before = "missed" if frame.before is None else "found"
    after = f"refined  {frame.score:.2f}" + ("  recovered" if frame.recovered else "")
    masks = [(frame.before, None, BEFORE), (frame.after, frame.before, AFTER)]
    pictures = [_painted(frame.picture, *mask) for mask in masks]
    titles = [f"frame {frame.index}  {before}", after, "reads of frames"]
    panels = [*pictures, chart(frames, place)]
    column = np.concatenate([titled(p, t) for p, t in zip(panels, titles, strict=True)])
    return np.pad(column, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=255)


def _painted(picture: Frame, mask: Mask | None, before: Mask | None, color: Rgb) -> Frame:
    """The mask over the picture; the contour is green and red where it gained and lost pixels."""
    painted = (picture * 0.75).astype(np.uint8)
    if mask is None:
        return painted
    painted[mask] = (0.45 * picture[mask] + 0.55 * np.array(color)).astype(np.uint8)
    if before is not None:
        painted[mask & ~before] = ADDED
        painted[before & ~mask] = REMOVED
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, contours, -1, (255, 255, 255), 1)
    return painted


def chart(frames: Sequence[TrackletFrame], place: int) -> Frame:
    """Bars of the weights with which one frame reads all frames.

    Args:
        frames: T.
        place: which of them reads.

    Returns:
        (CHART_PX, W, 3) uint8: blue for the frame itself, red where the object was missed, else
        grey; the highest bar is as high as the chart, and its weight stands above.
    """
    weights, width = frames[place].weights, frames[place].picture.shape[1]
    canvas = np.full((CHART_PX, width, 3), 245, dtype=np.uint8)
    highest, step = float(weights.max()), width / len(weights)
    if highest <= 0:
        cv2.putText(canvas, "not refined", (4, CHART_PX // 2), 0, 0.4, SEEN, 1, cv2.LINE_AA)
        return canvas
    floor, room = CHART_PX - 3, CHART_PX - 18
    for t, (frame, weight) in enumerate(zip(frames, weights.tolist(), strict=True)):
        color = ITSELF if t == place else MISSED if frame.before is None else SEEN
        left = round(t * step) + 1
        right = max(round((t + 1) * step) - 2, left)
        if weight == 0:
            continue
        top = floor - round(room * weight / highest)
        cv2.rectangle(canvas, (left, top), (right, floor), color, -1)
    label = f"most: {highest:.0%} of frame {frames[int(weights.argmax())].index}"
    cv2.putText(canvas, label, (4, 11), 0, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas
