"""Masks, contours and labels of tracks over a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vmt.structures.masks import MaskCrop, Rle, decode_crop
from vmt.visualization.colors import Rgb, text_color, track_color

Frame = npt.NDArray[np.uint8]


class DrawableTrack(Protocol):
    """What a track must say of itself to be drawn; masks at the size of the frame."""

    @property
    def track_id(self) -> int:
        """From 1; gives the colour."""
        ...

    @property
    def label(self) -> int:
        """Index of the class name."""
        ...

    @property
    def score(self) -> float:
        """In [0, 1]."""
        ...

    @property
    def rle(self) -> Rle:
        """The mask."""
        ...


@dataclass(frozen=True)
class OverlayStyle:
    """How tracks look.

    Args:
        fill: opacity of a mask's inside, in [0, 1].
        contour_px: width of the contour at a short side of 480 pixels; grows with the frame.
        text_px: height of the label text at a short side of 480 pixels; likewise.
        labels: draw ``id label score`` tags.
    """

    fill: float = 0.38
    contour_px: float = 2.0
    text_px: float = 15.0
    labels: bool = True


def draw_tracks(
    frame: Frame,
    tracks: Sequence[DrawableTrack],
    names: Sequence[str],
    style: OverlayStyle | None = None,
) -> Frame:
    """Paint tracks over a copy of a frame.

    Large masks are painted first, so that small ones stay visible; tags are placed in the order of
    the score and avoid one another.

    Args:
        frame: (H, W, 3) uint8 RGB.
        tracks: masks of the size of the frame.
        names: class names by label.
        style: None for the default look.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    style = style if style is not None else OverlayStyle()
    canvas = frame.copy()
    scale = min(frame.shape[:2]) / 480.0
    crops = [decode_crop(track.rle) for track in tracks]
    order = sorted(range(len(tracks)), key=lambda k: -crops[k].area)
    for k in order:
        _paint_mask(canvas, frame, crops[k], track_color(tracks[k].track_id), style, scale)
    if style.labels:
        taken: list[tuple[int, int, int, int]] = []
        for k in sorted(range(len(tracks)), key=lambda k: -tracks[k].score):
            text = f"{names[tracks[k].label]} {tracks[k].score:.2f}"
            _place_tag(canvas, crops[k], tracks[k].track_id, text, style, scale, taken)
    return canvas


def _paint_mask(
    canvas: Frame, frame: Frame, crop: MaskCrop, color: Rgb, style: OverlayStyle, scale: float
) -> None:
    """Blend a mask in: its blurred edge is the ramp on which the contour is cut out.

    What lies under the mask is the frame again, so that many masks over each other do not bury it.
    """
    if not crop.bits.size:
        return
    sigma = max(style.contour_px * max(scale, 0.5) * 0.6, 0.6)
    margin = int(np.ceil(3 * sigma)) + 1
    height, width = canvas.shape[:2]
    top, left = max(crop.y - margin, 0), max(crop.x - margin, 0)
    bottom = min(crop.y + crop.bits.shape[0] + margin, height)
    right = min(crop.x + crop.bits.shape[1] + margin, width)
    soft = np.zeros((bottom - top, right - left), dtype=np.uint8)
    y, x = crop.y - top, crop.x - left
    soft[y : y + crop.bits.shape[0], x : x + crop.bits.shape[1]][crop.bits] = 255
    region = canvas[top:bottom, left:right]
    cv2.copyTo(frame[top:bottom, left:right], soft, region)
    soft = cv2.GaussianBlur(soft, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    ink, rim = _edge_tables(style.fill)
    # A faint dark rim outside lifts the contour off bright backgrounds.
    _blend(region, (12, 12, 16), cv2.LUT(soft, rim))
    _blend(region, color, cv2.LUT(soft, ink))


def _blend(region: Frame, color: Rgb, opacity: npt.NDArray[np.uint8]) -> None:
    """Region += (color - region) * opacity / 255, in place."""
    weight = cv2.merge([opacity, opacity, opacity])
    paint = np.empty_like(region)
    paint[...] = color
    background = cv2.multiply(region, 255 - weight, scale=1 / 255)
    cv2.add(background, cv2.multiply(paint, weight, scale=1 / 255), dst=paint)
    region[...] = paint


@lru_cache(maxsize=8)
def _edge_tables(fill: float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Opacity of colour and of the dark rim, by the value of the blurred mask (0 to 255)."""
    inside = np.arange(256) / 255.0
    ramp = np.clip((inside - 0.08) / 0.84, 0.0, 1.0)
    line = np.clip(1.35 * (1.0 - np.abs(2.0 * ramp - 1.0) ** 2.5), 0.0, 1.0)
    line[ramp <= 0.0] = 0.0
    flat = fill * np.clip((inside - 0.35) / 0.3, 0.0, 1.0)
    color = np.maximum(line * 0.97, flat)
    rim = 0.45 * np.clip(inside / 0.10, 0.0, 1.0) * np.clip((0.5 - inside) / 0.3, 0.0, 1.0)
    return (color * 255).round().astype(np.uint8), (rim * 255).round().astype(np.uint8)


def titled(panel: Frame, title: str) -> Frame:
    """A picture (H, W, 3) under a bar with a title: (H + 22, W, 3)."""
    bar = np.full((22, panel.shape[1], 3), 255, dtype=np.uint8)
    scale = min(0.42, panel.shape[1] / (8.2 * max(len(title), 1)) * 0.42)
    cv2.putText(bar, title, (4, 15), 0, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel])


# Tags -----------------------------------------------------------------------------------------


def _place_tag(
    canvas: Frame,
    crop: MaskCrop,
    track_id: int,
    text: str,
    style: OverlayStyle,
    scale: float,
    taken: list[tuple[int, int, int, int]],
) -> None:
    height, width = canvas.shape[:2]
    size = max(round(style.text_px * scale), 9)
    tag = _tag(str(track_id), text, track_color(track_id), size)
    h, w = tag.shape[:2]
    if h > height or w > width or not crop.bits.size:
        return
    x1, y1, _, y2 = crop.box_xyxy_px()
    x = min(max(x1, 0), width - w)
    gap = max(round(3 * scale), 1)
    # Above the mask, else inside its top, below it, or wherever the next free row is.
    rows = [y1 - h - gap, y1 + gap, y2 + gap, *range(y1 + gap, height - h, h + gap)]
    rows = [min(max(row, 0), height - h) for row in rows]
    y = next((row for row in rows if not _overlaps((x, row, w, h), taken)), rows[0])
    taken.append((x, y, w, h))
    region = canvas[y : y + h, x : x + w].astype(np.uint16)
    opacity = tag[:, :, 3:].astype(np.uint16)
    mixed = region * (255 - opacity) + tag[:, :, :3].astype(np.uint16) * opacity
    canvas[y : y + h, x : x + w] = ((mixed + 127) // 255).astype(np.uint8)


def _overlaps(box: tuple[int, int, int, int], others: Sequence[tuple[int, int, int, int]]) -> bool:
    x, y, w, h = box
    return any(
        x < left + width and left < x + w and y < top + height and top < y + h
        for left, top, width, height in others
    )


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    try:
        from matplotlib import get_data_path
    except ImportError:  # bundles of tools/make_gpu_bundle.py have no room for it
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
        return font
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"), size)


@lru_cache(maxsize=512)
def _tag(badge: str, text: str, color: Rgb, size: int) -> npt.NDArray[np.uint8]:
    """A rounded tag (h, w, 4) RGBA: the id on the track's colour, the rest on dark."""
    font = _font(size)
    pad, zoom = round(size * 0.45), 4
    ascent, descent = font.getmetrics()
    badge_w = round(font.getlength(badge)) + 2 * pad
    w = badge_w + round(font.getlength(text)) + 2 * pad
    h = ascent + descent + max(round(size * 0.2), 2)
    shape = Image.new("L", (w * zoom, h * zoom), 0)
    radius = round(h * 0.28) * zoom
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, w * zoom - 1, h * zoom - 1), radius, fill=255)
    opacity = np.asarray(shape.resize((w, h), Image.Resampling.BOX), dtype=np.float64)
    tag = Image.new("RGB", (w, h), (18, 18, 22))
    draw = ImageDraw.Draw(tag)
    draw.rectangle((0, 0, badge_w - 1, h - 1), fill=color)
    baseline = round(h / 2 + font.getbbox("0", anchor="ls")[1] / -2)
    draw.text((pad, baseline), badge, font=font, fill=text_color(color), anchor="ls")
    draw.text((badge_w + pad, baseline), text, font=font, fill=(255, 255, 255), anchor="ls")
    pixels = np.asarray(tag)
    solid = 0.86 + 0.14 * pixels.max(axis=2) / 255.0  # the letters are opaque, their ground less
    solid[:, :badge_w] = 1.0
    return np.dstack([pixels, (opacity * solid).round().astype(np.uint8)])
