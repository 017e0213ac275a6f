"""What is seen in a frame, at the resolution at which tracklets are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.inference.propagation.features import CELL, FeatureMaps, LiteFeatures

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

#: Frames whose shorter side is longer are looked at in this size; masks keep the frame's.
LOOK_PX = 480


class View:
    """A frame, reduced; what is made of it is made when first asked for, and once.

    Args:
        frame: (H, W, 3) uint8 RGB.
        features: of the reduced frame.

    Attributes:
        frame: as given.
        size: (h, w) of the reduced frame.
    """

    def __init__(self, frame: ByteArray, features: FeatureMaps) -> None:
        self.frame = frame
        H, W = frame.shape[:2]
        scale = min(LOOK_PX / min(H, W), 1.0)
        self.size = max(round(H * scale), 1), max(round(W * scale), 1)
        self._features = features

    @cached_property
    def small(self) -> ByteArray:
        """(h, w, 3) uint8 RGB."""
        if self.size == self.frame.shape[:2]:
            return self.frame
        small = cv2.resize(self.frame, self.size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.uint8)

    @cached_property
    def grey(self) -> ByteArray:
        """(h, w) uint8."""
        return np.asarray(cv2.cvtColor(self.small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)

    @cached_property
    def features(self) -> Tensor:
        """(C, h', w') of its cells, see ``FeatureMaps``."""
        return self._features(self.small)

    @property
    def cells(self) -> tuple[int, int]:
        """(h', w'), how many there are."""
        return -(-self.size[0] // CELL), -(-self.size[1] // CELL)

    def reduce(self, mask: BoolArray) -> FloatArray:
        """(H, W) -> (h, w), the share of every pixel."""
        share = mask.astype(np.float32)
        if self.size == mask.shape:
            return share
        small = cv2.resize(share, self.size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.float32)

    def enlarge(self, values: FloatArray) -> FloatArray:
        """(h, w) -> (H, W)."""
        H, W = self.frame.shape[:2]
        if values.shape == (H, W):
            return values
        large = cv2.resize(values, (W, H), interpolation=cv2.INTER_LINEAR)
        return np.asarray(large, dtype=np.float32)

    def pool(self, values: FloatArray) -> Tensor:
        """(h, w) -> (h', w'), means of cells."""
        below, right = (n * CELL - side for n, side in zip(self.cells, self.size, strict=True))
        padded = np.pad(values, ((0, below), (0, right)), mode="edge")
        return F.avg_pool2d(torch.from_numpy(padded)[None], CELL)[0]

    def spread(self, values: Tensor) -> FloatArray:
        """(h', w') -> (h, w)."""
        h, w = self.size
        large = F.interpolate(
            values[None, None], scale_factor=CELL, mode="bilinear", align_corners=False
        )
        return large[0, 0, :h, :w].numpy()


@dataclass(frozen=True)
class ViewMaker:
    """Makes views of frames.

    Args:
        features: of reduced frames.
    """

    features: FeatureMaps

    @classmethod
    def from_pretrained(cls, device: str = "auto") -> ViewMaker:
        """With the features of the package."""
        return cls(LiteFeatures.from_pretrained(device))

    def __call__(self, frame: ByteArray) -> View:
        """The view of a frame."""
        return View(frame, self.features)
