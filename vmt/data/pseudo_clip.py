"""One image as a clip of T frames, for joint training with image data sets."""

from __future__ import annotations

import math
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from vmt.data.transforms import Clip
from vmt.utils.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

#: ImageNet's mean colour, which fills what the camera path uncovers.
_FILL = [124.0, 116.0, 104.0]


class PseudoClip(Protocol):
    """A recipe for clips from images."""

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        masks: npt.NDArray[np.bool_],
        num_frames: int,
        rng: np.random.Generator,
    ) -> Clip:
        """Make a clip.

        Args:
            image: (H, W, 3) RGB.
            masks: (G, H, W).
            num_frames: T.
            rng: of this sample.

        Returns:
            A clip of T frames, the image itself (nearly) among them.
        """
        ...


def build_pseudo_clip(name: str) -> PseudoClip:
    """The recipe of that name.

    Args:
        name: ``INPUT.STILLS``, or "released".

    Raises:
        ConfigError: there is none.
    """
    recipes: dict[str, PseudoClip] = {
        "camera": camera_path,
        "copies": copies,
        "released": shuffled_copies,
    }
    if name not in recipes:
        raise ConfigError(f"INPUT.STILLS is {name!r}; choose camera or copies.")
    return recipes[name]


def copies(
    image: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    num_frames: int,
    rng: np.random.Generator,
) -> Clip:
    """The image T times; an augmentation that draws for every frame makes them differ."""
    del rng
    frames = torch.from_numpy(image).permute(2, 0, 1).expand(num_frames, -1, -1, -1)
    again = torch.from_numpy(masks)[:, None].expand(-1, num_frames, -1, -1)
    return Clip(tv_tensors.Video(frames), tv_tensors.Mask(again))


def camera_path(
    image: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    num_frames: int,
    rng: np.random.Generator,
) -> Clip:
    """A smooth camera move over the image; recipe ours.

    The path leads through the image itself at a random time: turn up to 15 degrees, shift up to
    10% of the side, zoom 0.85 to 1.18, corners moved by up to 5%. Every mask is warped by itself,
    so overlaps stay; a pixel is set where at least half of it is covered. OpenCV warps: torchvision
    takes ten times as long for the same clip.
    """
    height, width = image.shape[:2]
    move = rng.uniform(-1, 1, 4) * [math.radians(15), 0.1 * width, 0.1 * height, math.log(1.18)]
    corners = rng.uniform(-0.05, 0.05, (4, 2)) * [width, height]
    rest = rng.uniform(0, 1)
    times = np.linspace(0, 1, num_frames) - rest if num_frames > 1 else np.zeros(1)
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    moved = np.zeros((len(masks), num_frames, height, width), dtype=np.bool_)
    for t, time in enumerate(times.tolist()):
        warp = _centred(_homography(move * time, corners * time, (height, width)))
        frames[t] = cv2.warpPerspective(image, warp, (width, height), borderValue=_FILL)
        for g, mask in enumerate(masks):
            covered = mask.view(np.uint8) * 255
            moved[g, t] = cv2.warpPerspective(covered, warp, (width, height)) >= 128
    return Clip(
        tv_tensors.Video(torch.from_numpy(frames).permute(0, 3, 1, 2)),
        tv_tensors.Mask(torch.from_numpy(moved)),
        cropped=True,
    )


def _centred(warp: FloatArray) -> FloatArray:
    """A map of points, for OpenCV, which counts from the centre of the first pixel."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(shift) @ warp @ shift)


def _homography(move: FloatArray, corners: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Pixel to pixel (3, 3): perspective by moved corners, then turn, zoom and shift."""
    height, width = size
    square = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(square, square + corners.astype(np.float32))
    angle, dx, dy, log_zoom = move.tolist()
    zoom = math.exp(log_zoom)
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    turn = np.array([[c, -s, dx + width / 2], [s, c, dy + height / 2], [0, 0, 1]])
    return np.asarray(turn @ to_centre @ warp)


# --- the published recipe -----------------------------------------------------------------------


def shuffled_copies(
    image: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    num_frames: int,
    rng: np.random.Generator,
) -> Clip:
    """The image and T - 1 distorted copies in random order, as SeqFormer makes them.

    See docs/reference/released_code.md#pseudo-clips. Per copy: brightness by up to 40 or hue and
    saturation by up to 5 (or both), corners moved with deviation 0.08, shift up to 10%, turn up to
    20 degrees, in one case of four motion blur. Masks are merged into one map first: a pixel of two
    objects belongs to the later one.
    """
    labels = np.zeros(image.shape[:2], dtype=np.uint16)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    pairs = [(image, labels)]
    pairs += [_distorted(image, labels, rng) for _ in range(num_frames - 1)]
    pairs = [pairs[k] for k in rng.permutation(num_frames)]
    frames = torch.from_numpy(np.stack([frame for frame, _ in pairs])).permute(0, 3, 1, 2)
    maps = torch.from_numpy(np.stack([labels for _, labels in pairs]).astype(np.int32))
    numbers = torch.arange(1, len(masks) + 1, dtype=torch.int32)
    cut: Tensor = maps[None] == numbers[:, None, None, None]
    return Clip(tv_tensors.Video(frames), tv_tensors.Mask(cut), cropped=True)


def _distorted(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint16], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    height, width = labels.shape
    which = int(rng.integers(3))  # brightness, colour, both
    if which != 1:
        image = np.clip(image.astype(np.int16) + int(rng.integers(-40, 41)), 0, 255)
        image = image.astype(np.uint8)
    if which != 0:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
        value = int(rng.integers(-5, 6))
        hsv[..., 0] = (hsv[..., 0] + value) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] + value, 0, 255)
        image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    square = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    jitter = np.abs(rng.normal(0, 0.08, (4, 2))) % 0.5 * [width, height]
    inner = (square + inward * jitter).astype(np.float32)
    perspective = cv2.getPerspectiveTransform(inner, square)
    angle, dx, dy = rng.uniform(-1, 1, 3) * [math.radians(20), 0.1 * width, 0.1 * height]
    turn = _homography(np.array([angle, dx, dy, 0.0]), np.zeros((4, 2)), (height, width))
    warp = turn @ perspective
    image = cv2.warpPerspective(image, warp, (width, height), flags=cv2.INTER_LINEAR)
    labels = cv2.warpPerspective(labels, warp, (width, height), flags=cv2.INTER_NEAREST)
    if rng.random() < 0.25:
        image = cv2.filter2D(image, -1, _motion_kernel(int(rng.choice([9, 11])), rng))
    return image, labels


def _motion_kernel(side: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A line through the centre at a random angle, weights rising or falling along it; sums to 1.

    Args:
        side: of the kernel in pixels, odd.
        rng: of this sample.
    """
    direction = float(rng.uniform(-1, 1))
    ramp = np.linspace(1 - (direction + 1) / 2, (direction + 1) / 2, side)
    kernel = np.zeros((side, side), dtype=np.float32)
    kernel[:, side // 2] = ramp
    centre = (side - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), float(rng.uniform(0, 360)), 1.0)
    line: npt.NDArray[np.float32] = cv2.warpAffine(kernel, turn, (side, side))
    return line / np.float32(max(float(line.sum()), 1e-6))
