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
from vmt.ops.flow_votes import Flow, flows_between

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

Window = tuple[slice, slice]

#: Frames whose shorter side is longer are looked at in this size; masks keep the frame's.
LOOK_PX = 480
#: Windows of more cells are looked at in cells of twice the side.
MOST_CELLS = 1600


@dataclass(frozen=True, eq=False)
class Patch:
    """The cells of a window of a view.

    Args:
        window: rows and columns of the view, in pixels; may reach beyond it at the lower right.
        side: pixels along a side of a cell.
        features: (C, n), each of length 1.
        size: (h, w) of the view.
    """

    window: Window
    side: int
    features: Tensor
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(h', w') of its n cells."""
        rows, columns = (-(-(part.stop - part.start) // self.side) for part in self.window)
        return rows, columns

    def pool(self, values: FloatArray) -> Tensor:
        """(h, w) of the view -> (n,), means of cells."""
        part = values[self.window]
        (rows, columns), (h, w) = self.shape, part.shape
        padded = np.pad(part, ((0, rows * self.side - h), (0, columns * self.side - w)), "edge")
        return F.avg_pool2d(torch.from_numpy(padded)[None], self.side).flatten()

    def spread(self, values: Tensor) -> FloatArray:
        """(n,) -> (h, w) of the view, 0 outside of the window."""
        large = F.interpolate(
            values.reshape(1, 1, *self.shape),
            scale_factor=self.side,
            mode="bilinear",
            align_corners=False,
        )
        whole = np.zeros(self.size, np.float32)
        part = whole[self.window]
        part[...] = large[0, 0, : part.shape[0], : part.shape[1]].numpy()
        return whole

    def places(self, centre: tuple[float, float], size: float) -> Tensor:
        """(n, 2): from a point (y, x) in pixels, in units of a size in pixels."""
        lines = [
            (torch.arange(part.start, part.stop, self.side) + self.side / 2 - middle) / size
            for part, middle in zip(self.window, centre, strict=True)
        ]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2)


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

    def flow_to(self, before: View) -> Flow:
        """Where its pixels are in the view before."""
        return flows_between(self.grey, before.grey)[0]

    def patch(self, window: Window | None = None, *, fine: bool = False) -> Patch:
        """The cells of a window, which grows to whole ones.

        Args:
            window: rows and columns in pixels; None: all.
            fine: the smallest cells, however many there are.
        """
        if window is None:
            window = slice(0, self.size[0]), slice(0, self.size[1])
        rows, columns = (
            slice(part.start // (2 * CELL) * 2 * CELL, -(-part.stop // CELL) * CELL)
            for part in window
        )
        part = self.features[
            :, rows.start // CELL : rows.stop // CELL, columns.start // CELL : columns.stop // CELL
        ]
        side = CELL
        if not fine and part.shape[1] * part.shape[2] > MOST_CELLS:
            pooled = F.avg_pool2d(part[None], 2, ceil_mode=True, count_include_pad=False)[0]
            part, side = F.normalize(pooled, dim=0), 2 * CELL
        return Patch((rows, columns), side, part.flatten(1), self.size)

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


def warp(values: FloatArray, flow: Flow) -> FloatArray:
    """(h, w) of the view before -> (h, w), 0 from beyond its edges."""
    return np.asarray(cv2.remap(values, flow.place, None, cv2.INTER_LINEAR), dtype=np.float32)


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
