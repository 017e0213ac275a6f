"""Augmentation of clips: parameters are drawn once per clip, or per frame where a config says so.

A transform has ``make_params(clip, rng)``, which draws and changes nothing, and
``apply(clip, params)``, which is a pure function. Boxes are no part of a clip: they are measured on
the masks after the last transform, so the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tvf

from vmt.utils.errors import ConfigError

Params = dict[str, Any]

#: Of what pads a window, in [0, 255] [detectron2's FixedSizeCrop].
_GREY = 128


@dataclass(frozen=True)
class Clip:
    """Frames and masks on their way through the transforms.

    Args:
        frames: ``tv_tensors.Video`` (T, 3, H, W) uint8 RGB.
        masks: ``tv_tensors.Mask`` (G, T, H, W) bool.
        cropped: True once a transform may have cut objects off.
    """

    frames: Tensor
    masks: Tensor
    cropped: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.frames.shape[-2]), int(self.frames.shape[-1])


class Transform(Protocol):
    """One augmentation."""

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """Draw what ``apply`` needs, once per clip."""
        ...

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The changed clip; the given one stays as it is."""
        ...


class Compose:
    """Transforms one after the other, each drawing from the same generator."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Draw and apply."""
        for transform in self.transforms:
            clip = transform.apply(clip, transform.make_params(clip, rng))
        return clip


# --- geometry -----------------------------------------------------------------------------------


def resize_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """Resize to (h, w): frames bilinear and antialiased, masks by the area they cover.

    A mask pixel is set where the object covers at least half of it. Picking the nearest pixel, as
    torchvision and the published code do, shifts masks against frames by up to half a pixel.
    """
    if size == clip.size:
        return clip
    frames = tvf.resize(clip.frames, list(size), antialias=True)
    shrinks = size[0] < clip.size[0] and size[1] < clip.size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    G, T = clip.masks.shape[:2]
    resized = torch.zeros((G, T, *size), dtype=torch.bool)
    source, target = clip.masks.numpy().view(np.uint8), resized.numpy()
    for g, t in np.argwhere(source.reshape(G, T, -1).any(-1)).tolist():
        covered = cv2.resize(source[g, t] * 255, (size[1], size[0]), interpolation=method)
        target[g, t] = covered >= 128
    return replace(clip, frames=frames, masks=tv_tensors.Mask(resized))


def crop_clip(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """Cut a window out, all in pixels."""
    return replace(
        clip,
        frames=tvf.crop(clip.frames, top, left, height, width),
        masks=tvf.crop(clip.masks, top, left, height, width),
        cropped=True,
    )


def pad_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """Grey on the right and below, up to (h, w); no mask covers it."""
    below, right = size[0] - clip.size[0], size[1] - clip.size[1]
    if not below and not right:
        return clip
    return replace(
        clip,
        frames=tvf.pad(clip.frames, [0, 0, right, below], fill=_GREY),
        masks=tvf.pad(clip.masks, [0, 0, right, below]),
    )


def size_of_short_side(size: tuple[int, int], short: int, longest: int = 0) -> tuple[int, int]:
    """(h, w) after a resize to a short side, aspect ratio kept.

    Args:
        size: (h, w) now.
        short: wanted short side in pixels.
        longest: bound of the long side, which then wins; 0: none.
    """
    low, high = min(size), max(size)
    if longest and high / low * short > longest:
        short = max(1, round(longest * low / high))
    if low == short:
        return size
    other = max(1, int(short * high / low))
    return (short, other) if size[0] <= size[1] else (other, short)


class Flip:
    """Mirror the whole clip left to right.

    Args:
        prob: in [0, 1].
    """

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """Whether to flip."""
        return {"flip": rng.random() < self.prob}

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The clip, mirrored or as it was."""
        if not params["flip"]:
            return clip
        return replace(
            clip,
            frames=tvf.horizontal_flip(clip.frames),
            masks=tvf.horizontal_flip(clip.masks),
        )


class Resize:
    """Resize to one of several short sides.

    Args:
        short_sides: pixels.
        longest: bound of the long side in pixels; 0: none.
    """

    def __init__(self, short_sides: Sequence[int], longest: int) -> None:
        self.short_sides = tuple(short_sides)
        self.longest = longest

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """Target size (h, w)."""
        short = int(rng.choice(self.short_sides))
        return {"size": size_of_short_side(clip.size, short, self.longest)}

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The clip at the drawn size."""
        return resize_clip(clip, params["size"])


class ResizeOrCrop:
    """Resize at once, or resize, cut a random window out, and resize that [SeqFormer code].

    Args:
        prob: of the crop.
        crop_short_sides: pixels, of the resize before the crop.
        crop_range: least and greatest side of the window, pixels.
        resize: the last step of either way.
        twice: resize pixels twice as published; otherwise the window is computed on the source,
            which gives the same view with one interpolation.
    """

    def __init__(
        self,
        prob: float,
        crop_short_sides: Sequence[int],
        crop_range: tuple[int, int],
        resize: Resize,
        *,
        twice: bool = False,
    ) -> None:
        self.prob = prob
        self.crop_short_sides = tuple(crop_short_sides)
        self.crop_range = crop_range
        self.resize = resize
        self.twice = twice

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """The window in pixels of the size before it, or None, and the last resize's size."""
        if rng.random() >= self.prob:
            return {"window": None} | self.resize.make_params(clip, rng)
        scaled = size_of_short_side(clip.size, int(rng.choice(self.crop_short_sides)))
        h, w = (self._side(side, rng) for side in scaled)
        top, left = int(rng.integers(scaled[0] - h + 1)), int(rng.integers(scaled[1] - w + 1))
        short = int(rng.choice(self.resize.short_sides))
        size = size_of_short_side((h, w), short, self.resize.longest)
        return {"scaled": scaled, "window": (top, left, h, w), "size": size}

    def _side(self, side: int, rng: np.random.Generator) -> int:
        low, high = self.crop_range
        return int(rng.integers(min(low, side), min(high, side) + 1))

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The clip cut to its window, if any, at the drawn size."""
        if params["window"] is not None:
            if self.twice:
                clip = crop_clip(resize_clip(clip, params["scaled"]), *params["window"])
            else:
                clip = crop_clip(clip, *_on_source(params["window"], params["scaled"], clip.size))
        return resize_clip(clip, params["size"])


def _on_source(
    window: tuple[int, int, int, int], scaled: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The window (top, left, h, w) of a resized frame in pixels of the frame itself."""
    top, left, h, w = window
    y, x = size[0] / scaled[0], size[1] / scaled[1]
    y1, x1 = math.floor(top * y), math.floor(left * x)
    y2, x2 = min(size[0], math.ceil((top + h) * y)), min(size[1], math.ceil((left + w) * x))
    return y1, x1, max(1, y2 - y1), max(1, x2 - x1)


class LargeScaleJitter:
    """Resize by a wide range of scales and cut a window of fixed size out (arXiv:2012.07177).

    Smaller frames are padded to it on the right and below, with grey, as in Mask2Former's and
    MaskDINO's trainings: all clips have one size.

    Args:
        size: (h, w) of the window in pixels.
        scale: range of the scale, relative to the largest frame that fits into the window.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        self.size = size
        self.scale = scale

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """Size after the resize and the window in it."""
        fit = min(self.size[0] / clip.size[0], self.size[1] / clip.size[1])
        factor = fit * float(rng.uniform(*self.scale))
        scaled = (
            max(1, round(clip.size[0] * factor)),
            max(1, round(clip.size[1] * factor)),
        )
        h, w = min(self.size[0], scaled[0]), min(self.size[1], scaled[1])
        top, left = int(rng.integers(scaled[0] - h + 1)), int(rng.integers(scaled[1] - w + 1))
        return {"scaled": scaled, "window": (top, left, h, w)}

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The window of the resized clip, padded."""
        window, scaled = params["window"], params["scaled"]
        if window[2:] != scaled:
            clip = crop_clip(clip, *_on_source(window, scaled, clip.size))
        return pad_clip(resize_clip(clip, (window[2], window[3])), self.size)


class PerFrame:
    """Another transform with a draw for every frame; all must come out at one size.

    Args:
        transform: the other.
    """

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """One draw per frame."""
        return {"frames": [self.transform.make_params(frame, rng) for frame in _frames(clip)]}

    def apply(self, clip: Clip, params: Params) -> Clip:
        """Each frame by its own draw."""
        draws = params["frames"]
        moved = [self.transform.apply(f, p) for f, p in zip(_frames(clip), draws, strict=True)]
        return Clip(
            tv_tensors.Video(torch.cat([frame.frames for frame in moved])),
            tv_tensors.Mask(torch.cat([frame.masks for frame in moved], dim=1)),
            cropped=any(frame.cropped for frame in moved),
        )


def _frames(clip: Clip) -> list[Clip]:
    """Clips of one frame each."""
    return [
        replace(
            clip,
            frames=tv_tensors.Video(clip.frames[t : t + 1]),
            masks=tv_tensors.Mask(clip.masks[:, t : t + 1]),
        )
        for t in range(len(clip.frames))
    ]


# --- colours ------------------------------------------------------------------------------------

#: Luma of RGB (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])


class ColorJitter:
    """Brightness, contrast, saturation and hue, one draw per clip, clipped to [0, 255].

    The ranges of the published jitter, without its slips (docs/reference/released_code.md#colours).
    All four are linear in RGB, hue as a turn about the grey axis, so that a clip costs one matrix
    product per pixel; torchvision's way through HSV takes 150 ms per clip of 5 x 360 x 640.

    Args:
        prob: of any change at all; each of the four then happens with probability one half.
    """

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """A (3, 4) matrix that takes (r, g, b, 1) in [0, 255] to the new colour, or None."""
        on = rng.random(4) < 0.5
        brightness = float(rng.uniform(-32, 32)) if on[0] else 0.0
        contrast = float(rng.uniform(0.5, 1.5)) if on[1] else 1.0
        saturation = float(rng.uniform(0.5, 1.5)) if on[2] else 1.0
        hue = math.radians(float(rng.uniform(-18, 18))) if on[3] else 0.0
        if rng.random() >= self.prob or not on.any():
            return {"matrix": None}
        linear = saturation * np.eye(3) + (1 - saturation) * _LUMA[None]
        linear = contrast * linear @ _turn_about_grey(hue)
        offset = np.full((3, 1), brightness)
        return {"matrix": np.concatenate([linear, offset], axis=1).astype(np.float32)}

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The clip in other colours."""
        if params["matrix"] is None:
            return clip
        pixels = _to_channels_last(clip.frames)
        stack = pixels.reshape(-1, pixels.shape[2], 3)  # frames below one another: one call
        changed = cv2.transform(stack, params["matrix"])  # rounds and clips
        return replace(clip, frames=_to_video(changed.reshape(pixels.shape)))


def _turn_about_grey(angle: float) -> npt.NDArray[np.float64]:
    """Rotation by ``angle`` (radians) about (1, 1, 1): the formula of Rodrigues."""
    k = 1 / math.sqrt(3)
    cross = np.array([[0, -k, k], [k, 0, -k], [-k, k, 0]])
    turn: npt.NDArray[np.float64] = (
        np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    )
    return turn


class ReleaseJitter:
    """The published photometric distortion with its quirks.

    See docs/reference/released_code.md#colours.
    Every frame is drawn by itself; RGB is taken for BGR; values beyond [0, 255] wrap around.
    """

    def make_params(self, clip: Clip, rng: np.random.Generator) -> Params:
        """One draw per frame."""
        return {"frames": [self._draw(rng) for _ in range(len(clip.frames))]}

    @staticmethod
    def _draw(rng: np.random.Generator) -> Params:
        on = rng.random(6) < 0.5
        return {
            "brightness": rng.uniform(-32, 32) if on[0] else 0.0,
            "contrast": rng.uniform(0.5, 1.5) if on[1] else 1.0,
            "contrast_first": bool(on[2]),
            "saturation": rng.uniform(0.5, 1.5) if on[3] else 1.0,
            "hue": rng.uniform(-18, 18) if on[4] else 0.0,
            "channels": rng.permutation(3) if on[5] else np.arange(3),
        }

    def apply(self, clip: Clip, params: Params) -> Clip:
        """The clip with colours of its own in every frame."""
        pixels = _to_channels_last(clip.frames)
        changed = [self._frame(p, draw) for p, draw in zip(pixels, params["frames"], strict=True)]
        return replace(clip, frames=_to_video(np.stack(changed)))

    @staticmethod
    def _frame(pixels: npt.NDArray[np.uint8], draw: Params) -> npt.NDArray[np.uint8]:
        x = pixels.astype(np.float32) + np.float32(draw["brightness"])
        if draw["contrast_first"]:
            x = x * np.float32(draw["contrast"])
        if draw["saturation"] != 1.0 or draw["hue"] != 0.0:
            hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)  # the release feeds RGB here
            hsv[..., 0] = (hsv[..., 0] + np.float32(draw["hue"])) % 360
            hsv[..., 1] *= np.float32(draw["saturation"])
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if not draw["contrast_first"]:
            x = x * np.float32(draw["contrast"])
        x = x[..., draw["channels"]]
        wrapped: npt.NDArray[np.uint8] = (np.trunc(x).astype(np.int64) & 255).astype(np.uint8)
        return wrapped


def _to_channels_last(frames: Tensor) -> npt.NDArray[np.uint8]:
    """(T, 3, H, W) to (T, H, W, 3)."""
    return np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())


def _to_video(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """(T, H, W, 3) to a ``tv_tensors.Video`` (T, 3, H, W) that shares its memory."""
    video: Tensor = tv_tensors.Video(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return video


# --- from the config ----------------------------------------------------------------------------


def build_augmentation(node: CfgNode, name: str) -> Compose:
    """The training augmentation of that name.

    Args:
        node: ``INPUT``.
        name: ``INPUT.AUGMENTATION``, or "released".

    Raises:
        ConfigError: unknown name, or values of ``INPUT`` outside their range.
    """
    _check(node)
    resize = Resize(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN)
    flip = Flip(node.FLIP_PROB)
    jitter: list[Transform] = [flip, LargeScaleJitter(_pair(node.LSJ_SIZE), _pair(node.LSJ_SCALE))]
    if node.LSJ_DRAW == "frame":
        jitter = [PerFrame(transform) for transform in jitter]
    crop_range = _pair(node.CROP_SIZE)
    recipes: dict[str, list[Transform]] = {
        "default": [
            flip,
            ResizeOrCrop(node.CROP_PROB, node.CROP_MIN_SIZES, crop_range, resize),
            ColorJitter(node.COLOR_PROB),
        ],
        "released": [
            flip,
            ReleaseJitter(),
            ResizeOrCrop(node.CROP_PROB, node.CROP_MIN_SIZES, crop_range, resize, twice=True),
        ],
        "lsj": [*jitter, ColorJitter(node.COLOR_PROB)],
        "none": [resize],
    }
    if name not in recipes:
        raise ConfigError(f"INPUT.AUGMENTATION is {name!r}; choose default, lsj or none.")
    return Compose(recipes[name])


def _pair(values: Sequence[Any]) -> tuple[Any, Any]:
    return values[0], values[1]


def _check(node: CfgNode) -> None:
    if node.LSJ_DRAW not in ("clip", "frame"):
        raise ConfigError(f"INPUT.LSJ_DRAW is {node.LSJ_DRAW!r}; choose clip or frame.")
    for key in ("MIN_SIZE_TRAIN", "CROP_MIN_SIZES", "CROP_SIZE", "LSJ_SIZE"):
        values = node[key]
        if not values or not all(isinstance(v, int) and v >= 1 for v in values):
            raise ConfigError(f"INPUT.{key} is {values}; give sizes in pixels, at least 1.")
    for key, kind in (("CROP_SIZE", "sides"), ("LSJ_SCALE", "scales"), ("LSJ_SIZE", "")):
        values = node[key]
        if len(values) != 2 or (kind and not 0 < values[0] <= values[1]):
            raise ConfigError(f"INPUT.{key} is {values}; give two values{kind and ', low first'}.")
    for key in ("FLIP_PROB", "COLOR_PROB", "CROP_PROB"):
        if not 0 <= node[key] <= 1:
            raise ConfigError(f"INPUT.{key} is {node[key]}; give a probability in [0, 1].")
