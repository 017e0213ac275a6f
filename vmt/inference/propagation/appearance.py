"""What sets an object apart from its surroundings, learned while it is followed.

Both models hold sums over all frames so far, and nothing of the frames themselves.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vmt.inference.propagation.view import Window

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
#: Weight of a frame that is not given in what is known; earlier ones count less and less.
RATE = 0.1
#: Ridge of the classifier, and how much features are enlarged beside its constant.
RIDGE, GAIN = 0.02, 3.0
#: Values of a channel that count as one colour: 256 / BINS.
BINS = 16
#: Least share of a colour.
LEAST = 1e-5
#: Side of the square over which colours are averaged, in pixels.
PATCH_PX = 5


class Classifier:
    """Linear classifier of cells by ridge regression, object and surroundings alike in weight.

    A target model as of Robinson et al. (arXiv:2003.00908), solved in closed form. Given frames are
    remembered for good, the others fade.
    """

    def __init__(self) -> None:
        self._given: list[Tensor] = []
        self._recent: list[Tensor] = []

    def learn(self, features: Tensor, share: Tensor, weight: Tensor, *, given: bool) -> None:
        """Learn from a frame.

        Args:
            features: (C, n) of cells.
            share: (n,) in [0, 1], of the object.
            weight: (n,), how much they count.
            given: of a given mask.
        """
        x, p = _design(features), share
        balance = p / p.sum().clamp(min=1) + (1 - p) / (1 - p).sum().clamp(min=1)
        counted = x * (balance * weight)[:, None]
        sums = [x.T @ counted, counted.T @ (2 * p - 1)]
        own = self._given if given else self._recent
        if not own:
            own += sums
        elif given:
            own[:] = [a + b for a, b in zip(own, sums, strict=True)]
        else:
            own[:] = [(1 - RATE) * a + RATE * b for a, b in zip(own, sums, strict=True)]

    def read(self, features: Tensor) -> Tensor:
        """(C, n) -> (n,): about 1 on the object and -1 around it."""
        parts = [part for part in (self._given, self._recent) if part]
        gram, target = (sum(columns) for columns in zip(*parts, strict=True))
        ridge = RIDGE * torch.eye(len(gram))
        weights: Tensor = torch.linalg.solve(gram + ridge, target)
        return _design(features) @ weights


def _design(features: Tensor) -> Tensor:
    x = GAIN * features.T
    return torch.cat([x, torch.ones(len(x), 1)], 1)


class Colours:
    """Histograms of the object's colours and of those around it."""

    def __init__(self) -> None:
        self._given: FloatArray | None = None
        self._recent: FloatArray | None = None

    def learn(self, frame: ByteArray, share: FloatArray, window: Window, *, given: bool) -> None:
        """Learn from a frame.

        Args:
            frame: (h, w, 3) uint8 RGB.
            share: (h, w) in [0, 1], of the object.
            window: rows and columns that count.
            given: of a given mask.
        """
        new = _histograms(frame[window], share[window])
        if given:
            self._given = new if self._given is None else np.float32(0.5) * (self._given + new)
        if self._recent is None or given:
            self._recent = new.copy()
        else:
            self._recent += np.float32(RATE) * (new - self._recent)

    def read(self, frame: ByteArray) -> FloatArray:
        """(h, w, 3) -> (h, w), log likelihood of the object's colours over those around it."""
        assert self._given is not None, "a given mask comes first"
        assert self._recent is not None, "a given mask comes first"
        inside, outside = (self._given + self._recent) / 2
        ratio = np.log(inside / outside).astype(np.float32)[_bins(frame)]
        return np.asarray(cv2.blur(ratio, (PATCH_PX, PATCH_PX)), dtype=np.float32)


def _bins(frame: ByteArray) -> npt.NDArray[np.int32]:
    red, green, blue = (frame[..., k].astype(np.int32) * BINS // 256 for k in range(3))
    return np.asarray((red * BINS + green) * BINS + blue, dtype=np.int32)


def _histograms(frame: ByteArray, share: FloatArray) -> FloatArray:
    """(2, BINS ** 3): of the object and of the rest, each of sum 1, neighbours mixed in."""
    bins = _bins(frame).ravel()
    made = []
    for weight in (share.ravel(), 1 - share.ravel()):
        cube = np.bincount(bins, weight, BINS**3).reshape(BINS, BINS, BINS)
        for axis in range(3):
            cube = cube + 0.5 * (np.roll(cube, 1, axis) + np.roll(cube, -1, axis))
        made.append(cube.ravel() / max(cube.sum(), 1.0) + LEAST)
    return np.stack(made).astype(np.float32)
