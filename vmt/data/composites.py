"""Clips of pasted objects that move over photos: training data whose boundaries are exact.

People outline objects a few pixels off. Here the mask is what the pixels were blended by, so its
boundary is right by construction. A shape (a generated one, or a region of an annotated photo) is
filled with one picture, moves over another, and the frame is blurred, made noisy and compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

#: Objects are drawn this much finer and averaged, for soft edges that are right below a pixel.
OVERSAMPLING = 2
#: Coverage of a pixel from which it belongs to the object.
FOREGROUND = 0.5


@dataclass(frozen=True)
class CompositeClip:
    """One clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (N, T, H, W) bool, the visible part of each object, back to front; occluders are no
            objects.
    """

    frames: ByteArray
    masks: BoolArray


@dataclass(frozen=True)
class Cutout:
    """A thing in a photo.

    Args:
        mask: (h, w) bool.
        pixels: (h, w, 3) uint8 RGB, the photo itself.
    """

    mask: BoolArray
    pixels: ByteArray


@dataclass(frozen=True)
class CompositeOptions:
    """What clips look like.

    Args:
        num_frames: T.
        size: (H, W) in pixels.
        num_objects: of every clip.
        occluder_prob: chance of a shape in front that is not annotated.
        photo_shape_prob: chance that an object has the outline of a region from a photo, if any
            are given.
        cutout_prob: chance that such an object keeps its own pixels, if it has any.
        speed_px: largest step of an object between frames, in pixels.
        bend_px: objects bend, as living things do: most pixels per frame by which a part moves
            against the others; 0: they are stiff.
        corrupt: blur, noise and JPEG compression.
    """

    num_frames: int = 5
    size: tuple[int, int] = (192, 192)
    num_objects: int = 1
    occluder_prob: float = 0.3
    photo_shape_prob: float = 0.4
    cutout_prob: float = 0.5
    speed_px: float = 6.0
    bend_px: float = 0.0
    corrupt: bool = True


def composite_clip(
    rng: np.random.Generator,
    options: CompositeOptions,
    photos: Sequence[ByteArray] = (),
    outlines: Sequence[BoolArray | Cutout] = (),
) -> CompositeClip:
    """Draw a clip; the same generator state gives the same clip.

    Args:
        rng: source of all draws.
        options: sizes, numbers and shares of what is drawn.
        photos: (h, w, 3) uint8 RGB, any size; generated textures are used too, and alone without.
        outlines: (h, w) bool, any size, shapes of things in photos, alone or with their pixels;
            empty ones are skipped.

    Returns:
        The clip. An object may be hidden, or leave the frame, for some frames.
    """
    H, W = options.size
    frames = _moving_background(rng, options, photos)
    masks: list[FloatArray] = []
    count = options.num_objects
    occluded = rng.random() < options.occluder_prob
    for k in range(count + int(occluded)):
        of_photo = outlines and rng.random() < options.photo_shape_prob
        canvas = int(min(H, W) * rng.uniform(0.4, 0.95)) if k < count else min(H, W) // 2
        # The texture is painted beyond the outline, so that resampling never mixes in black.
        if of_photo:
            shape, own = _photo_shape(rng, canvas, outlines)
        else:
            shape, own = draw_shape(rng, canvas), None
        if own is not None and rng.random() < options.cutout_prob:
            texture = own
        else:
            texture = _picture(rng, (canvas, canvas), photos)
        texture = _separated(rng, texture, frames[0])
        alphas, path = [], _path(rng, options, canvas)
        bend = _bend(rng, options) if options.bend_px else None
        for t, warp in enumerate(path):
            step = t - (options.num_frames - 1) / 2
            moved = None if bend is None else np.float32(step) * bend
            alpha = _warped_alpha(shape, warp, (H, W), moved)
            layer = _warped(texture, warp, (H, W), moved, cv2.BORDER_REFLECT)
            frames[t] += alpha[..., None] * (layer - frames[t])
            alphas.append(alpha)
        cover = np.stack(alphas)
        masks = [below * (1 - cover) for below in masks]
        if k < count:
            masks.append(cover)
    if options.corrupt:
        frames = _corrupted(rng, frames)
    visible = np.stack(masks) > FOREGROUND if masks else np.zeros((0, *frames.shape[:3]), bool)
    return CompositeClip(frames.round().clip(0, 255).astype(np.uint8), visible)


def _moving_background(
    rng: np.random.Generator, options: CompositeOptions, photos: Sequence[ByteArray]
) -> FloatArray:
    """(T, H, W, 3): a slow pan over a picture."""
    H, W = options.size
    reach = 8
    picture = _picture(rng, (H + 2 * reach, W + 2 * reach), photos)
    start, stop = rng.uniform(-reach, reach, (2, 2)) + reach
    frames = np.empty((options.num_frames, H, W, 3), np.float32)
    for t, part in enumerate(np.linspace(0, 1, options.num_frames)):
        x, y = start + part * (stop - start)
        warp = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
        frames[t] = cv2.warpAffine(picture, warp, (W, H), flags=cv2.INTER_LINEAR)
    return frames


def _path(rng: np.random.Generator, options: CompositeOptions, canvas: int) -> list[FloatArray]:
    """Per frame (2, 3): shape pixels to frame pixels, smooth in time."""
    H, W = options.size
    centre = np.array([W, H]) * rng.uniform(0.3, 0.7, 2)
    velocity = rng.uniform(-1, 1, 2) * options.speed_px
    turn, growth = rng.uniform(-4, 4), rng.uniform(0.98, 1.02)
    angle = rng.uniform(-180, 180) if rng.random() < 0.5 else rng.uniform(-15, 15)
    shear = rng.uniform(-0.02, 0.02)
    warps = []
    for t in range(options.num_frames):
        step = t - (options.num_frames - 1) / 2
        radians, scale = np.deg2rad(angle + turn * step), growth**step
        rotate = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        linear = scale * rotate @ np.array([[1, shear * step], [0, 1]])
        place = centre + velocity * step - linear @ np.full(2, canvas / 2)
        warps.append(np.concatenate([linear, place[:, None]], axis=1).astype(np.float32))
    return warps


def _bend(rng: np.random.Generator, options: CompositeOptions) -> FloatArray:
    """(H, W, 2): pixels in x and y by which places move against each other per frame, smooth."""
    grid = rng.normal(size=(int(rng.integers(3, 7)),) * 2 + (2,)).astype(np.float32)
    H, W = options.size
    field = cv2.resize(grid, (W, H), interpolation=cv2.INTER_CUBIC)
    most = np.sqrt(np.square(field).sum(2).max())
    return np.asarray(field * np.float32(rng.uniform(0, options.bend_px) / most), dtype=np.float32)


def _warped(
    picture: npt.NDArray[Any],
    warp: FloatArray,
    size: tuple[int, int],
    moved: FloatArray | None,
    border: int = cv2.BORDER_CONSTANT,
) -> npt.NDArray[Any]:
    """A picture of the size of a frame, whose places have moved by (H, W, 2) pixels beside."""
    H, W = size
    if moved is None:
        plain = cv2.warpAffine(picture, warp, (W, H), flags=cv2.INTER_LINEAR, borderMode=border)
        return np.asarray(plain)
    place = np.stack(np.meshgrid(np.arange(W), np.arange(H)), -1).astype(np.float32) - moved
    back = cv2.invertAffineTransform(warp)
    place = cv2.transform(place, back)
    return np.asarray(cv2.remap(picture, place, None, cv2.INTER_LINEAR, borderMode=border))


def _warped_alpha(
    shape: ByteArray,
    warp: FloatArray,
    size: tuple[int, int],
    moved: FloatArray | None = None,
) -> FloatArray:
    """(H, W) coverage in [0, 1]: drawn ``OVERSAMPLING`` times finer, then averaged."""
    H, W = size
    n = OVERSAMPLING
    # Pixel centres stay aligned: fine = n * coarse + (n - 1) / 2, on both sides.
    offset = (n - 1) / 2
    linear = warp[:, :2]
    place = n * warp[:, 2] + offset - linear @ np.full(2, offset, np.float32)
    if moved is not None:
        moved = n * cv2.resize(moved, (n * W, n * H), interpolation=cv2.INTER_LINEAR)
    fine = _warped(shape, np.column_stack([linear, place]), (n * H, n * W), moved)
    area = cv2.resize(fine, (W, H), interpolation=cv2.INTER_AREA)
    return np.asarray(area, dtype=np.float32) / np.float32(255.0)


def draw_shape(rng: np.random.Generator, canvas: int) -> ByteArray:
    """A random outline with what coarse masks lose: prongs, hairs, holes, corners.

    Args:
        rng: source of all draws.
        canvas: pixels per side of the square that it fills; it is drawn ``OVERSAMPLING`` times
            finer.

    Returns:
        (n * canvas, n * canvas) uint8, 0 or 255.
    """
    side = OVERSAMPLING * canvas
    image = np.zeros((side, side), np.uint8)
    SHAPES[int(rng.integers(len(SHAPES)))](rng, image)
    if rng.random() < 0.3:
        _hairs(rng, image)
    if rng.random() < 0.25:
        _holes(rng, image)
    return image


def _blob(rng: np.random.Generator, image: ByteArray) -> None:
    """A closed curve of a few random waves."""
    side = len(image)
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 9):
        size = rng.normal() * 0.35 / wave
        radius += size * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.15, None)
    radius *= 0.46 * side / radius.max()
    squash = rng.uniform(0.4, 1.0)
    points = np.stack([radius * np.cos(angle), squash * radius * np.sin(angle)], 1) + side / 2
    cv2.fillPoly(image, [points.round().astype(np.int32)], 255)


def _polygon(rng: np.random.Generator, image: ByteArray) -> None:
    """Straight sides and sharp corners, convex or star-like."""
    side, count = len(image), int(rng.integers(3, 12))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    radius = rng.uniform(0.15, 0.48, count) * side
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + side / 2
    cv2.fillPoly(image, [points.round().astype(np.int32)], 255)
    cv2.circle(image, (side // 2, side // 2), int(0.12 * side), 255, -1)


def _comb(rng: np.random.Generator, image: ByteArray) -> None:
    """A bar with prongs, some of them thinner than a cell of a coarse mask."""
    side, count = len(image), int(rng.integers(3, 9))
    bar = int(side * rng.uniform(0.15, 0.35))
    image[side // 2 - bar : side // 2, side // 10 : side - side // 10] = 255
    step = 0.8 * side / count
    for k in range(count):
        width = max(2.0, step * rng.uniform(0.1, 0.7))
        x = int(0.1 * side + k * step)
        length = int(side * rng.uniform(0.2, 0.45))
        image[side // 2 : side // 2 + length, x : x + int(width)] = 255


def _limbs(rng: np.random.Generator, image: ByteArray) -> None:
    """A body with bent limbs that taper."""
    side = len(image)
    axes = (int(side * rng.uniform(0.12, 0.25)), int(side * rng.uniform(0.08, 0.2)))
    cv2.ellipse(image, (side // 2, side // 2), axes, rng.uniform(0, 180), 0, 360, 255, -1)
    for _ in range(int(rng.integers(2, 7))):
        point = np.full(2, side / 2)
        angle, width = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.03, 0.12)
        for _ in range(3):
            step = side * rng.uniform(0.1, 0.17)
            target = point + step * np.array([np.cos(angle), np.sin(angle)])
            a, b = ((int(p[0]), int(p[1])) for p in (point, target))
            cv2.line(image, a, b, 255, max(2, int(width)))
            point, width = target, width * rng.uniform(0.5, 1.0)
            angle += rng.uniform(-0.8, 0.8)


def _hairs(rng: np.random.Generator, image: ByteArray) -> None:
    """Lines of one to three pixels out of the outline."""
    ys, xs = np.nonzero(image)
    for k in rng.integers(len(ys), size=int(rng.integers(3, 15))):
        angle, length = rng.uniform(0, 2 * np.pi), len(image) * rng.uniform(0.1, 0.4)
        stop = (int(xs[k] + length * np.cos(angle)), int(ys[k] + length * np.sin(angle)))
        width = int(rng.integers(OVERSAMPLING, 3 * OVERSAMPLING + 1))
        cv2.line(image, (int(xs[k]), int(ys[k])), stop, 255, width)


def _holes(rng: np.random.Generator, image: ByteArray) -> None:
    ys, xs = np.nonzero(image)
    for k in rng.integers(len(ys), size=int(rng.integers(1, 5))):
        radius = int(len(image) * rng.uniform(0.02, 0.08))
        cv2.circle(image, (int(xs[k]), int(ys[k])), radius, 0, -1)
    if not image.any():
        image[:] = 255


SHAPES: tuple[Callable[[np.random.Generator, ByteArray], None], ...] = (
    _blob,
    _polygon,
    _comb,
    _limbs,
)


def _photo_shape(
    rng: np.random.Generator, canvas: int, outlines: Sequence[BoolArray | Cutout]
) -> tuple[ByteArray, FloatArray | None]:
    """Something in a photo, scaled to the canvas: its smoothed outline, and its pixels if known.

    Returns:
        (n * canvas, n * canvas) uint8 and (canvas, canvas, 3).
    """
    drawn = outlines[int(rng.integers(len(outlines)))]
    mask = drawn.mask if isinstance(drawn, Cutout) else drawn
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return draw_shape(rng, canvas), None
    # A square around the thing, so large that it fills the canvas but for a margin.
    reach = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    scale = 0.95 * canvas / reach
    centre = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    flip = -1.0 if rng.random() < 0.5 else 1.0

    def warp(side: int, zoom: float) -> FloatArray:
        shift = ((side - 1) / 2 - flip * zoom * centre[0], (side - 1) / 2 - zoom * centre[1])
        return np.array([[flip * zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)

    side = OVERSAMPLING * canvas
    scaled = cv2.warpAffine(mask.astype(np.float32), warp(side, OVERSAMPLING * scale), (side, side))
    scaled = cv2.GaussianBlur(scaled, (0, 0), OVERSAMPLING) > 0.5
    if not scaled.any():
        return draw_shape(rng, canvas), None
    shape = 255 * scaled.astype(np.uint8)
    if not isinstance(drawn, Cutout):
        return shape, None
    pixels = drawn.pixels
    zoom = scale
    if scale < 1:  # averaged before, so that fewer pixels do not mean jagged ones
        small = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
        pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        centre = (
            (centre[0] + 0.5) * small[0] / mask.shape[1] - 0.5,
            (centre[1] + 0.5) * small[1] / mask.shape[0] - 0.5,
        )
        zoom = 1.0
    own = cv2.warpAffine(
        pixels, warp(canvas, zoom), (canvas, canvas), borderMode=cv2.BORDER_REFLECT
    )
    return shape, own.astype(np.float32)


def _picture(
    rng: np.random.Generator, size: tuple[int, int], photos: Sequence[ByteArray]
) -> FloatArray:
    """(h, w, 3): a part of a photo, or a texture; colours shifted."""
    if not photos or rng.random() < 0.2:
        picture = _texture(rng, size)
    else:
        photo = photos[int(rng.integers(len(photos)))]
        picture = _photo_part(rng, photo, size)
    picture = picture * rng.uniform(0.7, 1.2, 3) + rng.uniform(-20, 20, 3)
    if rng.random() < 0.3:
        picture = picture[..., rng.permutation(3)]
    return np.ascontiguousarray(picture.clip(0, 255), dtype=np.float32)


def _photo_part(
    rng: np.random.Generator, photo: ByteArray, size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    h, w = size
    height, width = photo.shape[:2]
    zoom = rng.uniform(1.0, max(1.0, min(height / h, width / w)))
    zoom = min(zoom, height / h, width / w)  # below 1 a small photo is enlarged
    part_h, part_w = min(height, max(1, int(h * zoom))), min(width, max(1, int(w * zoom)))
    y, x = int(rng.integers(height - part_h + 1)), int(rng.integers(width - part_w + 1))
    part = photo[y : y + part_h, x : x + part_w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    way = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(part), (w, h), interpolation=way)
    return np.asarray(resized, dtype=np.float64)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Noise of several sizes between two colours, or stripes."""
    h, w = size
    if rng.random() < 0.3:
        y, x = np.mgrid[:h, :w]
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
        pattern = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    else:
        pattern = np.zeros((h, w))
        for cell in (4, 16, 64):
            coarse = rng.normal(size=(-(-h // cell) + 1, -(-w // cell) + 1))
            pattern += rng.random() * cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    mix = 1 / (1 + np.exp(-rng.uniform(0.5, 3) * pattern))
    first, second = rng.uniform(0, 255, (2, 3))
    return np.asarray(first + mix[..., None] * (second - first), dtype=np.float64)


def _separated(rng: np.random.Generator, texture: FloatArray, background: FloatArray) -> FloatArray:
    """Shift the brightness where object and background have nearly one mean colour."""
    gap = float(np.abs(texture.mean((0, 1)) - background.mean((0, 1))).max())
    if gap > 20 or rng.random() < 0.3:
        return texture
    shift = np.float32(rng.choice([-1, 1]) * rng.uniform(25, 70))
    return (texture + shift).clip(0, 255)


def _corrupted(rng: np.random.Generator, frames: FloatArray) -> FloatArray:
    """Blur (of the lens or of motion), noise and JPEG, each sometimes, equal in all frames."""
    kernel = None
    if rng.random() < 0.5:
        sigma = rng.uniform(0.4, 1.5)
        line = cv2.getGaussianKernel(9, sigma)
        kernel = line @ line.T
    elif rng.random() < 0.3:
        length, angle = int(rng.integers(3, 8)), rng.uniform(0, 180)
        kernel = np.zeros((9, 9))
        kernel[4, 4 - length // 2 : 4 - length // 2 + length] = 1
        kernel = cv2.warpAffine(kernel, cv2.getRotationMatrix2D((4, 4), angle, 1), (9, 9))
        kernel /= kernel.sum()
    noise = rng.uniform(0, 8) if rng.random() < 0.5 else 0.0
    quality = int(rng.integers(40, 96)) if rng.random() < 0.6 else 0
    out = np.empty_like(frames)
    for t, frame in enumerate(frames):
        result = frame if kernel is None else cv2.filter2D(frame, -1, kernel)
        if noise:
            grain = rng.standard_normal(frame.shape, dtype=np.float32)
            result = result + np.float32(noise) * grain
        if quality:
            bytes_ = result.round().clip(0, 255).astype(np.uint8)
            _, coded = cv2.imencode(".jpg", bytes_, [cv2.IMWRITE_JPEG_QUALITY, quality])
            result = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.float32)
        out[t] = result
    return out
