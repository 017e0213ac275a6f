"""What neighbouring frames say of a mask: theirs, brought into place by optical flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

#: Frames are made so many whole times smaller for flow that their longer side is at most this.
FLOW_SIZE_PX = 448
#: Halvings of the smaller frame down from which flow is searched: at 1 it is right to a tenth of a
#: pixel on a small moving disc, at the presets' 2 it lags behind by a quarter.
FINEST = 1
#: Longer side of the smallest frames in which it can be searched.
LEAST_PX = 12
#: Grey levels by which a neighbour may differ where flow leads; its vote falls as a Gaussian.
TOLERANCE = 25.0
#: Pixels, of the smaller frame, by which flow there and back may miss where it began; likewise.
RETURN_PX = 1.5
#: Side of the square over which grey levels are compared, in pixels of the smaller frame.
PATCH_PX = 7
#: Surroundings of an object that are asked about: share of its longer side, and least pixels.
MARGIN, MIN_MARGIN_PX = 0.2, 48


@dataclass(frozen=True)
class Flow:
    """Where the pixels of a frame are in another, both made smaller.

    Args:
        place: (h, w, 2) float32, x and y in the other frame.
        trust: (h, w) float32 in [0, 1].
    """

    place: FloatArray
    trust: FloatArray


def shrinkage(height: int, width: int) -> int:
    """How many times smaller frames are for flow."""
    return -(-max(height, width) // FLOW_SIZE_PX)


def grey_for_flow(frame: ByteArray) -> ByteArray:
    """(H, W, 3) uint8 RGB -> (h, w) uint8."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return smaller(grey, shrinkage(*grey.shape))


def smaller(values: npt.NDArray[np.uint8], times: int) -> ByteArray:
    """(H, W) -> (ceil(H / times), ceil(W / times)), means of squares."""
    if times == 1:
        return values
    below, right = -values.shape[0] % times, -values.shape[1] % times
    if below or right:
        values = np.pad(values, ((0, below), (0, right)), mode="edge")
    size = values.shape[1] // times, values.shape[0] // times
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def flows_between(a: ByteArray, b: ByteArray) -> tuple[Flow, Flow]:
    """Flow of frame a in b, and of b in a: (h, w) uint8 of ``grey_for_flow``.

    Dense inverse search (arXiv:1603.03590); a pixel is trusted where flow leads back to it and grey
    levels fit. In frames that are too small for the search nothing moves.
    """
    h, w = a.shape
    there = back = np.zeros((h, w, 2), np.float32)
    if max(h, w) >= LEAST_PX:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        search.setFinestScale(FINEST)
        there, back = search.calc(a, b, None), search.calc(b, a, None)
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)
    found = []
    for own, other, flow, home in ((a, b, there, back), (b, a, back, there)):
        place = grid + flow
        returned = cv2.remap(home, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = cv2.remap(other, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        far = cv2.blur(cv2.absdiff(seen, own), (PATCH_PX, PATCH_PX)).astype(np.float32)
        missed = np.square(flow + returned).sum(2)
        trust = np.exp(-np.square(far / TOLERANCE) - missed / RETURN_PX**2)
        inside = (place >= 0).all(2) & (place[..., 0] <= w - 1) & (place[..., 1] <= h - 1)
        found.append(Flow(place, trust * inside))
    return found[0], found[1]


def votes_for(
    own: BoolArray, neighbours: Sequence[BoolArray], flows: Sequence[Flow], most: int
) -> ByteArray:
    """What the neighbours of a frame say of its tracklets.

    Args:
        own: (N, H, W), masks of the frame; nothing is asked about tracklets without a pixel.
        neighbours: (N, H, W) each; those without a pixel of a tracklet say nothing about it, nor
            do those whose mask, in place, misses it altogether: it is of another object then.
        flows: of the frame in each of them.
        most: neighbours that there could be.

    Returns:
        (N, 2, H, W): the share of the votes that are for the object, and how many there were of
        ``most``, both in [0, 255] for [0, 1]; the share is 0 without votes.
    """
    N, H, W = own.shape
    times = shrinkage(H, W)
    said = np.zeros((N, 2, H, W), np.uint8)
    present = [[bool(mask.any()) for mask in masks] for masks in neighbours]
    for n, box in _surroundings(own, times):
        part = tuple(slice(s.start // times, -(-s.stop // times)) for s in box)
        total = np.zeros(tuple(s.stop - s.start for s in part), np.float32)
        votes = np.zeros_like(total)
        own_part = smaller(own[n].view(np.uint8) * np.uint8(255), times)[part] > 0
        for masks, flow, there in zip(neighbours, flows, present, strict=True):
            if not there[n]:
                continue
            mask = smaller(masks[n].view(np.uint8) * np.uint8(255), times)
            seen = cv2.remap(mask, flow.place[part], None, cv2.INTER_LINEAR)
            if not seen[own_part].any():
                continue
            votes += flow.trust[part] * seen
            total += flow.trust[part]
        planes = votes / np.maximum(total, 1e-3), total * (255 / most)
        for k, plane in enumerate(planes):
            values = np.rint(np.asarray(plane, dtype=np.float32)).clip(0, 255).astype(np.uint8)
            if times > 1:
                size = values.shape[1] * times, values.shape[0] * times
                values = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
            target = said[n, k, box[0], box[1]]
            target[...] = values[: target.shape[0], : target.shape[1]]
    return said


def _surroundings(masks: BoolArray, times: int) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Per tracklet with a pixel the rows and columns around it; they start at whole cells."""
    for n, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            continue
        ends = [(int(line[0]), int(line[-1]) + 1) for line in (rows, columns)]
        longer = max(stop - start for start, stop in ends)
        space = max(round(MARGIN * longer), MIN_MARGIN_PX)
        box = [
            slice(max(start - space, 0) // times * times, min(stop + space, side))
            for (start, stop), side in zip(ends, mask.shape, strict=True)
        ]
        yield n, (box[0], box[1])


def clip_votes(
    frames: Sequence[ByteArray], masks: BoolArray, chosen: Sequence[int], reach: int
) -> ByteArray:
    """Votes in some frames of a clip that is in memory.

    Args:
        frames: T of (H, W, 3) uint8 RGB.
        masks: (N, T, H, W).
        chosen: K frames that are asked about.
        reach: frames on each side that are asked.

    Returns:
        (N, K, 2, H, W), see ``votes_for``.
    """
    greys = [grey_for_flow(frame) for frame in frames]
    flows: dict[tuple[int, int], Flow] = {}
    said = []
    for t in chosen:
        near = [k for k in range(max(t - reach, 0), min(t + reach + 1, len(frames))) if k != t]
        for k in near:
            if (t, k) not in flows:
                flows[t, k], flows[k, t] = flows_between(greys[t], greys[k])
        own = [flows[t, k] for k in near]
        said.append(votes_for(masks[:, t], [masks[:, k] for k in near], own, 2 * reach))
    return np.stack(said, 1)
