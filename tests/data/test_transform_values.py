"""Augmentations against values computed by hand, or pixel by pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torchvision import tv_tensors

from vmt.data.mapper import clip_targets
from vmt.data.pseudo_clip import _centred, _homography, camera_path, shuffled_copies
from vmt.data.transforms import (
    Clip,
    ColorJitter,
    LargeScaleJitter,
    PerFrame,
    ReleaseJitter,
    Resize,
    ResizeOrCrop,
    _on_source,
    resize_clip,
    size_of_short_side,
)

GREY = np.array([0.299, 0.587, 0.114])


def ramp(height: int = 48, width: int = 64, frames: int = 2) -> Clip:
    """Pixels (4 x, 5 y, 7); one mask, the left half."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([4 * x % 256, 5 * y % 256, np.full_like(x, 7)]).astype(np.uint8)
    video = torch.from_numpy(pixels).expand(frames, 3, height, width).clone()
    masks = torch.from_numpy(x < width // 2).expand(1, frames, height, width).clone()
    return Clip(tv_tensors.Video(video), tv_tensors.Mask(masks))


# --- sizes and windows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((48, 64), 24, 0, (24, 32)),
        ((64, 48), 24, 0, (32, 24)),
        # 96 would make 128: the long side's bound of 64 gives the scale
        ((48, 64), 96, 64, (48, 64)),
        # a frame longer than the bound may be resized to a short side that keeps to it
        ((480, 640), 60, 100, (60, 80)),
        # 100 * 480 / 640 = 75
        ((480, 640), 90, 100, (75, 100)),
        # the other side is cut to an integer: 50 * 64 / 48 = 66.7
        ((48, 64), 50, 0, (50, 66)),
    ],
)
def test_size_of_a_short_side(size, short, longest, expected):
    assert size_of_short_side(size, short, longest) == expected


def test_windows_on_the_source_hold_every_pixel_that_they_touch():
    """6x8 of a frame of 10x16: rows 1 to 4 are 1.67 to 6.67, columns 1 to 4 are 2 to 8."""
    assert _on_source((1, 1, 3, 3), (6, 8), (10, 16)) == (1, 2, 6, 6)
    # 10/3 pixels in each: the last row ends at 10, the frame's
    assert _on_source((2, 0, 1, 3), (3, 3), (10, 10)) == (6, 0, 4, 10)


def test_windows_are_drawn_from_everywhere():
    """24x24 of 48x64: tops 0 to 24, lefts 0 to 40, about equally often."""
    crop = ResizeOrCrop(1.0, [48], (24, 24), Resize([24], 0))
    drawn = [crop.make_params(ramp(), np.random.default_rng(k))["window"] for k in range(400)]
    tops, lefts = ([window[axis] for window in drawn] for axis in (0, 1))
    assert (min(tops), max(tops)) == (0, 24)
    assert (min(lefts), max(lefts)) == (0, 40)
    assert np.mean(lefts) == pytest.approx(20, abs=2)
    assert {window[2:] for window in drawn} == {(24, 24)}


def test_windows_have_sides_from_the_range_cut_to_the_frame():
    crop = ResizeOrCrop(1.0, [32], (20, 40), Resize([24], 0))
    drawn = [crop.make_params(ramp(), np.random.default_rng(k))["window"] for k in range(200)]
    heights, widths = ({window[axis] for window in drawn} for axis in (2, 3))
    assert (min(heights), max(heights)) == (20, 32), "a frame of 32x42"
    assert (min(widths), max(widths)) == (20, 40)


@pytest.mark.parametrize(
    ("frame", "window", "scale", "scaled"),
    [
        # 40/48 = 0.833 fits, 56/64 = 0.875 would not
        ((48, 64), (40, 56), 1.0, (40, 53)),
        ((64, 48), (40, 56), 1.0, (40, 30)),
        ((48, 64), (40, 56), 2.0, (80, 107)),
        ((48, 64), (40, 56), 0.5, (20, 27)),
    ],
)
def test_large_scale_jitter_is_relative_to_what_fits(frame, window, scale, scaled):
    jitter = LargeScaleJitter(window, (scale, scale))
    params = jitter.make_params(ramp(*frame), np.random.default_rng(0))
    assert params["scaled"] == scaled
    assert params["window"][2:] == (min(40, scaled[0]), min(56, scaled[1]))
    assert jitter.apply(ramp(*frame), params).size == window, "padded"


def test_large_scale_jitter_pads_with_grey_on_the_right_and_below():
    """Half of what fits into 48x80: 24x32 pixels, each the mean of four."""
    jitter = LargeScaleJitter((48, 80), (0.5, 0.5))
    clip = ramp()
    out = jitter.apply(clip, jitter.make_params(clip, np.random.default_rng(0)))
    assert out.size == (48, 80)
    assert not out.cropped
    assert (out.frames[..., 24:, :] == 128).all()
    assert (out.frames[..., 32:] == 128).all()
    assert (out.frames[:, 2, :24, :32] == 7).all()
    assert out.masks[0, 0].sum() == 24 * 16
    assert out.masks[0, 1, :24, :16].all()


def test_large_scale_jitter_of_each_frame_by_hand():
    """Frame 0 at its own scale from row 8 and column 16, frame 1 at half of it and padded."""
    jitter = PerFrame(LargeScaleJitter((24, 32), (0.1, 2.0)))
    params = {
        "frames": [
            {"scaled": (48, 64), "window": (8, 16, 24, 32)},
            {"scaled": (12, 16), "window": (0, 0, 12, 16)},
        ]
    }
    out = jitter.apply(ramp(), params)
    assert out.cropped
    assert out.frames[0, 0, 0].tolist() == list(range(64, 192, 4))
    assert out.frames[0, 1, :, 0].tolist() == list(range(40, 160, 5))
    assert out.masks[0, 0, 3].tolist() == [True] * 16 + [False] * 16
    # a quarter of the frame's side: columns of four pixels, 4 (4 j + 1.5)
    assert out.frames[1, 0, 6, 1:15].tolist() == [6 + 16 * j for j in range(1, 15)]
    assert (out.frames[1, :, 12:] == 128).all()
    assert (out.frames[1, :, :, 16:] == 128).all()
    assert out.masks[0, 1].nonzero().max(0).values.tolist() == [11, 7]
    assert out.masks[0, 1].sum() == 12 * 8


def test_an_object_that_one_frames_window_cuts_off_is_absent_there_alone():
    """The left half is the object; the second frame shows the right half."""
    jitter = PerFrame(LargeScaleJitter((48, 32), (0.1, 2.0)))
    window = {"scaled": (48, 64), "window": (0, 0, 48, 32)}
    params = {"frames": [window, window | {"window": (0, 32, 48, 32)}]}
    out = jitter.apply(ramp(), params)
    targets = clip_targets(out.masks.as_subclass(torch.Tensor), torch.zeros(1, dtype=torch.int64))
    assert targets.valid.tolist() == [[True, False]]
    assert targets.boxes_cxcywh[0, 0].tolist() == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("twice", [False, True])
def test_a_window_shows_what_lies_under_it(twice):
    """A quarter of the frame at its own scale, from column 16 and row 12."""
    crop = ResizeOrCrop(1.0, [48], (24, 24), Resize([24], 0), twice=twice)
    params = {"window": (12, 16, 24, 32), "scaled": (48, 64), "size": (24, 32)}
    out = crop.apply(ramp(), params)
    assert out.cropped
    assert out.frames[0, 0, 0].tolist() == list(range(64, 192, 4))
    assert out.frames[0, 1, :, 0].tolist() == list(range(60, 180, 5))
    assert out.masks[0, 0, 0].tolist() == [True] * 16 + [False] * 16


def test_half_covered_pixels_belong_to_a_resized_mask():
    """Columns 0 to 4 of 64 at half the size: two whole ones, and one that is half covered."""
    clip = ramp()
    masks = torch.zeros(1, 2, 48, 64, dtype=torch.bool)
    masks[..., :5] = True
    small = resize_clip(Clip(clip.frames, tv_tensors.Mask(masks)), (24, 32))
    assert small.masks[0, 0, 5].tolist() == [True] * 3 + [False] * 29
    masks[..., :] = False
    masks[..., 4:5, 4:5] = True  # a quarter of a pixel
    assert not resize_clip(Clip(clip.frames, tv_tensors.Mask(masks)), (24, 32)).masks.any()


# --- colours ------------------------------------------------------------------------------------


def slow_colours(pixel: np.ndarray, seed: int, prob: float) -> np.ndarray:
    """Hue as a rotation by scipy, saturation as a way from grey, then contrast and brightness."""
    rng = np.random.default_rng(seed)
    on = rng.random(4) < 0.5
    brightness = rng.uniform(-32, 32) if on[0] else 0.0
    contrast = rng.uniform(0.5, 1.5) if on[1] else 1.0
    saturation = rng.uniform(0.5, 1.5) if on[2] else 1.0
    degrees = rng.uniform(-18, 18) if on[3] else 0.0
    if rng.random() >= prob:
        return pixel
    axis = np.ones(3) / math.sqrt(3)
    turned = Rotation.from_rotvec(axis * math.radians(degrees)).apply(pixel)
    grey = (turned @ GREY)[:, None]
    return contrast * (grey + saturation * (turned - grey)) + brightness


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_colours_pixel_by_pixel(prob):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (20, 3)).astype(np.uint8)
    frames = torch.from_numpy(pixels).T.reshape(1, 3, 4, 5).contiguous()
    clip = Clip(tv_tensors.Video(frames), tv_tensors.Mask(torch.zeros(0, 1, 4, 5).bool()))
    changed = 0
    for seed in range(30):
        jitter = ColorJitter(prob)
        out = jitter.apply(clip, jitter.make_params(clip, np.random.default_rng(seed)))
        ours = out.frames.reshape(3, 20).T.numpy().astype(float)
        slow = slow_colours(pixels.astype(float), seed, prob).round().clip(0, 255)
        np.testing.assert_allclose(ours, slow, atol=1)
        changed += bool((ours != pixels).any())
    assert {0.0: changed == 0, 0.5: 8 <= changed <= 22, 1.0: changed >= 25}[prob]


def test_the_published_jitter_frame_by_frame():
    """Its draws differ between frames; what leaves [0, 255] wraps around."""
    clip = ramp(frames=4)
    params = ReleaseJitter().make_params(clip, np.random.default_rng(3))
    assert len({draw["brightness"] for draw in params["frames"]}) > 1
    plain = {"brightness": 0.0, "contrast": 1.0, "contrast_first": True, "saturation": 1.0,
             "hue": 0.0, "channels": np.arange(3)}  # fmt: skip
    draws = [
        plain | {"brightness": 30.0},
        plain | {"brightness": -10.0},
        plain | {"contrast": 1.5, "contrast_first": False},
        plain | {"channels": np.array([2, 0, 1])},
    ]
    out = ReleaseJitter().apply(clip, {"frames": draws}).frames[:, :, 2, [1, 60]].tolist()
    # (4 x, 5 y, 7) at x = 1 and 60, y = 2: (4, 10, 7) and (240, 10, 7)
    assert out[0] == [[34, 14], [40, 40], [37, 37]], "240 + 30 - 256"
    assert out[1] == [[250, 230], [0, 0], [253, 253]], "4 - 10 + 256"
    assert out[2] == [[6, 104], [15, 15], [10, 10]], "360 - 256, 10.5 cut off"
    assert out[3] == [[7, 7], [4, 240], [10, 10]]


# --- clips of images ----------------------------------------------------------------------------


def image_with_square(side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((1, side, side), bool)
    mask[0, 20:44, 20:44] = True
    return image, mask


def test_the_camera_path_leads_through_the_image_at_some_time():
    image, mask = image_with_square()
    same = []
    for seed in range(20):
        clip = camera_path(image, mask, 3, np.random.default_rng(seed))
        pixels = clip.frames.permute(0, 2, 3, 1).numpy()
        same.append([bool((frame == image).mean() > 0.9) for frame in pixels])
    first, _, last = np.mean(same, axis=0)
    assert first <= 0.2, "not always at the beginning"
    assert last <= 0.2, "nor at the end"


@pytest.mark.parametrize("seed", range(4))
def test_the_camera_moves_masks_as_it_moves_pixels(seed):
    """A white square on black: a pixel is in the mask where the frame is at least half white."""
    _, mask = image_with_square()
    image = np.repeat(mask[0][..., None], 3, 2).astype(np.uint8) * 255
    clip = camera_path(image, mask, 4, np.random.default_rng(seed))
    inside = slice(8, -8)  # beyond the image stands ImageNet's mean colour
    white = clip.frames[:, 0, inside, inside] >= 128
    assert torch.equal(torch.as_tensor(clip.masks)[0, :, inside, inside], white)


def test_still_cameras_move_nothing():
    image, mask = image_with_square()
    clip = camera_path(image, mask, 1, np.random.default_rng(0))
    assert (clip.frames[0].permute(1, 2, 0).numpy() == image).all()
    assert (clip.masks[0, 0].numpy() == mask[0]).all()
    assert clip.cropped


def test_the_published_copies_are_shuffled():
    """The image itself is among them once, and anywhere."""
    image, mask = image_with_square()
    places = []
    for seed in range(12):
        clip = shuffled_copies(image, mask, 3, np.random.default_rng(seed))
        pixels = clip.frames.permute(0, 2, 3, 1).numpy()
        places += [t for t in range(3) if (pixels[t] == image).all()]
    assert len(places) == 12
    assert set(places) == {0, 1, 2}


def test_a_homography_of_pixels_agrees_with_opencvs_centres():
    """A shift by whole pixels moves every pixel by just that."""
    warp = _homography(np.array([0.0, 3.0, 2.0, 0.0]), np.zeros((4, 2)), (16, 16))
    image = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    moved = cv2.warpPerspective(image, _centred(warp), (16, 16))
    assert (moved[2:, 3:] == image[:-2, :-3]).all()
    # twice as large about the centre: pixel (4, 4) of 8x8 covers 2x2 pixels from (4, 4)
    zoom = _homography(np.array([0.0, 0.0, 0.0, math.log(2)]), np.zeros((4, 2)), (8, 8))
    spot = np.zeros((8, 8), np.uint8)
    spot[4, 4] = 255
    grown = cv2.warpPerspective(spot, _centred(zoom), (8, 8))
    assert grown[4:6, 4:6].min() == grown[4:6, 4:6].max() > 128
    assert grown[4, 3] == grown[3, 4] < 128
