"""Filmstrips of one tracklet: a few frames, cropped, with what is right, missing and extra."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import Json
from cocoapi_hq.io.ytvis_json import Video

logger = logging.getLogger(__name__)

#: RGB of pixels both sides have, of missing ones, and of extra ones.
RIGHT, MISSING, EXTRA = (64, 190, 120), (40, 110, 235), (230, 60, 50)
FRAMES = 6
_WIDTH, _HEIGHT = 216, 144
_QUALITY = 84

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
#: Gives the image of a name in ``file_names`` as (H, W, 3) RGB; raises ValueError with a sentence
#: where it cannot be read. The decoder is the caller's, so that all of a program share one.
ImageReader = Callable[[str], Image]


def _dense(entries: Sequence[Json] | None, t: int, size: tuple[int, int]) -> Mask:
    empty: Mask = np.zeros(size, dtype=np.bool_)
    entry = entries[t] if entries is not None and t < len(entries) else None
    if rle.is_absent(entry):
        return empty
    mask = rle.decode(rle.validate(entry, "mask", size))
    return mask if mask.shape == size else empty


def _frame_size(video: Video, tubes: Sequence[Sequence[Json] | None]) -> tuple[int, int] | None:
    if video.height and video.width:
        return video.height, video.width
    for tube in tubes:
        for entry in tube or ():
            if isinstance(entry, dict) and not rle.is_absent(entry):
                return int(entry["size"][0]), int(entry["size"][1])
    return None


def _has(entries: Sequence[Json] | None, t: int) -> bool:
    return entries is not None and t < len(entries) and not rle.is_absent(entries[t])


def _choose(target: Sequence[Json] | None, result: Sequence[Json] | None) -> list[int]:
    """Frames spread evenly over those where something is to be seen."""
    length = max(len(target or ()), len(result or ()))
    shown = [t for t in range(length) if any(_has(s, t) for s in (target, result))]
    if len(shown) <= FRAMES:
        return shown
    places = np.linspace(0, len(shown) - 1, FRAMES).round().astype(int)
    return [shown[k] for k in places]


def _window(masks: Sequence[Mask], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """One crop for all frames: x0, y0, x1, y1 around everything, in the strip's proportions."""
    seen = np.any(masks, axis=0)
    h, w = size
    x, y = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if not len(x):
        return 0, 0, w, h
    x0, x1, y0, y1 = float(x[0]), float(x[-1] + 1), float(y[0]), float(y[-1] + 1)
    margin = 0.12 * max(x1 - x0, y1 - y0) + 6
    width, height = x1 - x0 + 2 * margin, y1 - y0 + 2 * margin
    width = max(width, height * _WIDTH / _HEIGHT)
    height = width * _HEIGHT / _WIDTH
    width, height = min(width, w), min(height, h)
    cx = min(max((x0 + x1) / 2, width / 2), w - width / 2)
    cy = min(max((y0 + y1) / 2, height / 2), h - height / 2)
    return (
        int(cx - width / 2),
        int(cy - height / 2),
        int(np.ceil(cx + width / 2)),
        int(np.ceil(cy + height / 2)),
    )


def _background(video: Video, t: int, read: ImageReader | None, size: tuple[int, int]) -> Image:
    plain: Image = np.full((*size, 3), 232, dtype=np.uint8)
    if read is None or t >= len(video.file_names):
        return plain
    try:
        image = read(video.file_names[t])
    except ValueError as error:
        logger.warning("%s Its frame is drawn without image.", error)
        return plain
    if image.shape[:2] == size:
        return image
    if image.shape[:2] == size[::-1]:
        logger.warning(
            "%s is %dx%d pixels, not %dx%d; its frame is drawn without image.",
            video.file_names[t],
            *image.shape[1::-1],
            *size[::-1],
        )
        return plain
    resized: Image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return resized


def _draw(image: Image, target: Mask, result: Mask) -> Image:
    """Tint the three kinds of pixels and outline the ground truth."""
    out = image.astype(np.float32)
    for pixels, color, strength in (
        (target & result, RIGHT, 0.38),
        (target & ~result, MISSING, 0.62),
        (result & ~target, EXTRA, 0.62),
    ):
        out[pixels] = (1 - strength) * out[pixels] + strength * np.array(color, dtype=np.float32)
    drawn: Image = np.ascontiguousarray(out.round().astype(np.uint8))
    outlines, _ = cv2.findContours(
        np.ascontiguousarray(target.astype(np.uint8)), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), max(1, round(target.shape[0] / 400)))
    return drawn


def _resize(image: Image) -> Image:
    h, w = image.shape[:2]
    scale = min(_WIDTH / w, _HEIGHT / h)
    shape = (max(1, round(w * scale)), max(1, round(h * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    out: Image = np.full((_HEIGHT, _WIDTH, 3), 244, dtype=np.uint8)
    x, y = (_WIDTH - shape[0]) // 2, (_HEIGHT - shape[1]) // 2
    out[y : y + shape[1], x : x + shape[0]] = cv2.resize(image, shape, interpolation=how)
    return out


def filmstrip(
    video: Video,
    target: Sequence[Json] | None,
    result: Sequence[Json] | None,
    read: ImageReader | None,
) -> list[tuple[int, str]]:
    """Draw a tracklet.

    Args:
        video: where it is.
        target: masks of the ground truth, one per frame; None draws nothing of it.
        result: masks of the result.
        read: reader of the frames; None or files that it cannot read give a plain background.

    Returns:
        (frame, ``data:`` address of a JPEG) for up to :data:`FRAMES` frames; empty when there is
        nothing to be seen.
    """
    frames = _choose(target, result)
    size = _frame_size(video, (target, result))
    if not frames or size is None:
        return []
    try:
        pairs = [(_dense(target, t, size), _dense(result, t, size)) for t in frames]
    except ScoringError as error:
        logger.warning("video_id=%d: no filmstrip (%s)", video.id, error)
        return []
    x0, y0, x1, y1 = _window([a | b for a, b in pairs], size)
    out = []
    for t, (wanted, found) in zip(frames, pairs, strict=True):
        image = _draw(_background(video, t, read, size), wanted, found)
        picture = _resize(image[y0:y1, x0:x1])
        _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        text = base64.b64encode(data.tobytes()).decode("ascii")
        out.append((t, f"data:image/jpeg;base64,{text}"))
    return out
