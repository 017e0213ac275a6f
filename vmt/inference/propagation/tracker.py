"""One tracklet from frame to frame: what flow and memory say of it, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vmt.inference.propagation.appearance import Classifier, Colours
from vmt.inference.propagation.features import CELL
from vmt.inference.propagation.memory import Memory
from vmt.inference.propagation.view import View, Window, warp
from vmt.ops.flow_votes import Flow

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

#: Say of flow (where it is trusted), memory, classifier and colours, in log odds, and what is added
#: to them.
FLOW, MEMORY, CLASSIFIER, COLOURS, BIAS = 0.7, 0.9, 1.8, 0.5, -0.3
#: Log odds of single colours are cut at this.
MOST_COLOUR = 3.0
#: Probabilities are kept so far from 0 and 1 before they become log odds.
DOUBT = 0.02
#: Space around the object that is looked at: share of its longer side, and least pixels.
MARGIN, MIN_MARGIN_PX = 0.5, 64
#: Weight of cells farther away for the classifier.
FAR_WEIGHT = 0.1
#: Pieces smaller than this share of the largest are specks.
SPECK = 0.05
#: Share of memory in the confidence; the rest is flow's.
FAMILIAR = 0.75
#: Confidence below which a frame is not learned from, and below which the tracklet is lost.
LEARN, LOST = 0.5, 0.3
#: Confidence from which a lost tracklet is found again.
FOUND = 0.5


@dataclass(frozen=True)
class Guess:
    """Where a tracklet may be in a view.

    Args:
        probability: (h, w) in [0, 1].
        warped: (h, w) in [0, 1], what flow alone says, or a finder, of what was lost.
        matched: (h, w) in [0, 1], what memory alone says.
        recognised: a finder said where to look.
    """

    probability: FloatArray
    warped: FloatArray
    matched: FloatArray
    recognised: bool = False


class Tracker:
    """One tracklet."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._classifier = Classifier()
        self._colours = Colours()
        self._share = np.zeros((0, 0), np.float32)
        self._lost = False

    def start(self, view: View, mask: BoolArray) -> None:
        """Go on from a given mask (H, W)."""
        self._share = view.reduce(mask)
        self._lost = False
        self._learn(view, self._share, given=True)

    @property
    def lost(self) -> bool:
        """It was not found in the view before."""
        return self._lost

    def look(self, view: View, flow: Flow, found: FloatArray | None = None) -> Guess:
        """Where it may be.

        Args:
            view: the next one.
            flow: of it in the one before.
            found: (h, w) in [0, 1], where a finder sees what was lost; it counts as if flow had
                brought the tracklet there.
        """
        warped, trust = warp(self._share, flow), flow.trust
        if found is not None:
            warped, trust = found, np.ones_like(flow.trust)
        seen = warped > 0.5
        whole = (self._lost and found is None) or not seen.any()
        window = None if whole else _around(seen)
        patch = view.patch(window)
        places = None if whole else patch.places(*_centre(warped))
        share = self._memory.read(patch.features, places)
        matched = patch.spread(share)
        fine = view.patch(window, fine=True)
        odds = BIAS + MEMORY * _log_odds(matched)
        odds += CLASSIFIER * fine.spread(self._classifier.read(fine.features))
        odds += COLOURS * self._colours.read(view.small).clip(-MOST_COLOUR, MOST_COLOUR)
        if not whole:
            odds += FLOW * trust * _log_odds(warped)
        inside = np.zeros_like(seen)
        inside[fine.window] = True
        probability = np.where(inside, 1 / (1 + np.exp(-odds)), 0).astype(np.float32)
        return Guess(without_specks(probability), warped, matched, found is not None)

    def settle(self, view: View, guess: Guess, mask: BoolArray) -> tuple[BoolArray, float]:
        """Take a mask, or none where it is not sure.

        Args:
            view: as in ``look``.
            guess: what that gave.
            mask: (H, W), the guess, sharpened.

        Returns:
            The mask, without a pixel where the tracklet is lost, and how sure it is.
        """
        share = view.reduce(mask)
        sought = self._lost and not guess.recognised
        confidence = _confidence(guess, share, sought=sought)
        if confidence < (FOUND if self._lost else LOST):
            self._lost = True
            return np.zeros_like(mask), confidence
        self._lost = False
        self._share = share
        if confidence >= LEARN:
            self._learn(view, share, given=False)
        return mask, confidence

    def _learn(self, view: View, share: FloatArray, *, given: bool) -> None:
        window = _around(_solid(share))
        patch = view.patch(window)
        places = patch.places(*_centre(share))
        self._memory.write(patch.features, patch.pool(share), places, given=given)
        near = np.full(view.size, FAR_WEIGHT, np.float32)
        near[window] = 1.0
        cells = view.patch(fine=True)
        weight = cells.pool(near)
        self._classifier.learn(cells.features, cells.pool(share), weight, given=given)
        self._colours.learn(view.small, share, window, given=given)


def apart(probabilities: Sequence[FloatArray]) -> BoolArray:
    """Masks of N tracklets that share no pixel, from their probabilities, (H, W) each."""
    stacked = np.stack(probabilities)
    best = stacked.argmax(0)
    masks = stacked > 0.5
    return np.asarray(masks & (np.arange(len(stacked))[:, None, None] == best), dtype=np.bool_)


def without_specks(probability: FloatArray) -> FloatArray:
    """The same, with 0 in small pieces beside a large one."""
    mask = (probability > 0.5).astype(np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count <= 2:
        return probability
    small = 1 + np.flatnonzero(areas < SPECK * areas.max())
    return np.where(np.isin(pieces, small), 0, probability).astype(np.float32)


def _confidence(guess: Guess, share: FloatArray, *, sought: bool) -> float:
    """How far what was found agrees with memory, and with where it was expected, by IoU.

    What was lost and not recognised, but sought everywhere, was expected nowhere.
    """
    mask = share > 0.5
    if not mask.any():
        return 0.0
    known = _iou(mask, guess.matched > 0.5)
    if sought:
        return known
    return FAMILIAR * known + (1 - FAMILIAR) * _iou(mask, guess.warped > 0.5)


def _iou(a: BoolArray, b: BoolArray) -> float:
    return float(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a | b)), 1)


def _log_odds(probability: FloatArray) -> FloatArray:
    kept = probability.clip(DOUBT, 1 - DOUBT)
    return np.asarray(np.log(kept / (1 - kept)), dtype=np.float32)


def _solid(share: FloatArray) -> BoolArray:
    """The object's pixels; of an object smaller than a pixel the best ones."""
    solid = share > 0.5
    return np.asarray(solid if solid.any() else share == share.max(), dtype=np.bool_)


def _around(mask: BoolArray) -> Window:
    """Rows and columns of an object with space around them."""
    lines = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    ends = [(int(line[0]), int(line[-1]) + 1) for line in lines]
    space = max(MARGIN * max(stop - start for start, stop in ends), MIN_MARGIN_PX)
    rows, columns = (
        slice(max(int(start - space), 0), min(int(stop + space), side))
        for (start, stop), side in zip(ends, mask.shape, strict=True)
    )
    return rows, columns


def _centre(share: FloatArray) -> tuple[tuple[float, float], float]:
    """Centre (y, x) and size of an object in pixels."""
    rows, columns = np.nonzero(_solid(share))
    return (float(rows.mean()), float(columns.mean())), max(len(rows), CELL**2) ** 0.5
