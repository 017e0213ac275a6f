import cv2
import numpy as np
import pytest

from vmt.data import composites
from vmt.data.composites import (
    OVERSAMPLING,
    SHAPES,
    CompositeOptions,
    Cutout,
    _warped_alpha,
    composite_clip,
)


def _photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)]


def test_same_seed_same_clip():
    options = CompositeOptions(num_frames=3, size=(64, 80), num_objects=2)
    a, b = (composite_clip(np.random.default_rng(4), options, _photos()) for _ in range(2))
    assert (a.frames == b.frames).all()
    assert (a.masks == b.masks).all()
    assert a.frames.shape == (3, 64, 80, 3)
    assert a.masks.shape == (2, 3, 64, 80)
    assert a.frames.dtype == np.uint8


@pytest.mark.parametrize("seed", range(6))
def test_visible_parts_are_disjoint_and_present(seed):
    options = CompositeOptions(num_frames=3, size=(96, 96), num_objects=3)
    clip = composite_clip(np.random.default_rng(seed), options, _photos())
    assert (clip.masks.sum(0) <= 1).all()
    assert clip.masks[-1].any(axis=(1, 2)).all() or options.occluder_prob


def test_the_boundary_is_where_the_colours_change(monkeypatch):
    """Flat object on flat background: what is nearer to the object's colour is the mask."""
    colours = iter([30.0, 220.0] * 10)

    def flat(rng, size, photos):
        return np.full((*size, 3), next(colours), np.float32)

    monkeypatch.setattr(composites, "_picture", flat)
    options = CompositeOptions(num_frames=2, size=(96, 96), occluder_prob=0, corrupt=False)
    for seed in range(10):
        clip = composite_clip(np.random.default_rng(seed), options)
        value = clip.frames[..., 0].astype(int)
        clear = abs(value - 125) > 1  # half covered, to the rounding
        assert ((value > 125) == clip.masks[0])[clear].all()
        assert clip.masks.any()


def test_warped_coverage_is_centred():
    """A square of 8 pixels moved by whole and half pixels covers what arithmetic says."""
    shape = np.zeros((40, 40), np.uint8)
    shape[8:24, 8:24] = 255  # 4..12 in pixels
    for move, first in ((0.0, (4, 1.0)), (0.5, (4, 0.5))):
        warp = np.array([[1, 0, move], [0, 1, 0]], np.float32)
        alpha = _warped_alpha(shape, warp, (20, 20))
        assert alpha.sum() == pytest.approx(64, abs=0.5)
        assert alpha[8, first[0]] == pytest.approx(first[1], abs=0.02)
    assert OVERSAMPLING == 2


@pytest.mark.parametrize("draw", SHAPES)
def test_every_shape_draws_something(draw):
    for seed in range(10):
        image = np.zeros((80, 80), np.uint8)
        draw(np.random.default_rng(seed), image)
        assert 20 < (image > 0).sum() < 80 * 80
        assert set(np.unique(image)) <= {0, 255}


def test_outlines_of_photos_are_used_and_empty_ones_skipped():
    outline = np.zeros((50, 30), bool)
    outline[10:40, 5:25] = True
    options = CompositeOptions(num_frames=2, size=(64, 64), photo_shape_prob=1.0, occluder_prob=0)
    for outlines in ([outline], [np.zeros((50, 30), bool)]):
        clip = composite_clip(np.random.default_rng(0), options, outlines=outlines)
        assert clip.masks.any()


def test_objects_move():
    options = CompositeOptions(num_frames=4, size=(96, 96), occluder_prob=0, speed_px=8)
    moved = 0
    for seed in range(5):
        masks = composite_clip(np.random.default_rng(seed), options).masks[0]
        moved += (masks[0] != masks[-1]).any()
    assert moved == 5


def test_cutouts_keep_their_own_pixels():
    """A red thing in a green photo: what is pasted is red to its boundary, whatever its size."""
    for size in (40, 300):
        photo = np.zeros((2 * size, 2 * size, 3), np.uint8)
        photo[..., 1] = 255
        mask = np.zeros(photo.shape[:2], bool)
        yy, xx = np.mgrid[: 2 * size, : 2 * size]
        mask[(yy - size) ** 2 + (xx - 0.8 * size) ** 2 < (size / 2) ** 2] = True
        photo[mask] = (255, 0, 0)
        options = CompositeOptions(
            num_frames=2, size=(96, 96), occluder_prob=0, photo_shape_prob=1, cutout_prob=1,
            corrupt=False,
        )  # fmt: skip
        grey = [np.full((90, 140, 3), 90, np.uint8)]
        for seed in range(4):
            clip = composite_clip(np.random.default_rng(seed), options, grey, [Cutout(mask, photo)])
            tube = clip.masks[0]
            inner = np.stack([cv2.erode(m.astype(np.uint8), np.ones((5, 5))) for m in tube]) > 0
            red, green = clip.frames[inner][:, 0].astype(int), clip.frames[inner][:, 1].astype(int)
            assert tube.any()
            assert (red > green).mean() > 0.99


def test_outlines_without_pixels_and_empty_ones_still_work():
    outline = np.zeros((60, 80), bool)
    outline[10:50, 20:60] = True
    options = CompositeOptions(num_frames=2, size=(64, 64), photo_shape_prob=1, cutout_prob=1)
    nothing = Cutout(np.zeros((60, 80), bool), np.zeros((60, 80, 3), np.uint8))
    for made in (outline, nothing):
        clip = composite_clip(np.random.default_rng(0), options, _photos(), [made])
        assert clip.masks.shape == (1, 2, 64, 64)


def test_objects_bend_and_masks_bend_with_them(monkeypatch):
    """Flat colours again, which must change where the mask does; its shape changes over time."""
    colours = iter([30.0, 220.0] * 10)
    monkeypatch.setattr(
        composites, "_picture",
        lambda rng, size, photos: np.full((*size, 3), next(colours), np.float32),
    )  # fmt: skip
    changes = {}
    for bend in (0.0, 6.0):
        options = CompositeOptions(
            num_frames=3, size=(96, 96), occluder_prob=0, corrupt=False, bend_px=bend, speed_px=0.0
        )
        clip = composite_clip(np.random.default_rng(3), options)
        value = clip.frames[..., 0].astype(int)
        clear = abs(value - 125) > 1
        assert ((value > 125) == clip.masks[0])[clear].all()
        areas = clip.masks[0].sum((1, 2))
        changes[bend] = (areas.max() - areas.min()) / areas.mean()
    monkeypatch.undo()
    assert changes[6.0] != changes[0.0]


def test_pixels_of_a_bent_object_move_with_its_outline(monkeypatch):
    """A disc with a dot in its middle: wherever the disc goes, the dot stays in its middle."""
    dot = np.zeros((60, 60, 3), np.uint8)
    cv2.circle(dot, (30, 30), 24, (90, 90, 90), -1)
    cv2.circle(dot, (30, 30), 6, (250, 250, 250), -1)
    disc = cv2.circle(np.zeros((60, 60), np.uint8), (30, 30), 20, 1, -1) > 0
    monkeypatch.setattr(composites, "_bend", lambda rng, o: np.full((96, 96, 2), 9.0, np.float32))
    options = CompositeOptions(
        num_frames=3, size=(96, 96), occluder_prob=0, corrupt=False, bend_px=9.0, speed_px=0.0,
        photo_shape_prob=1.0, cutout_prob=1.0,
    )  # fmt: skip
    clip = composite_clip(np.random.default_rng(1), options, (), [Cutout(disc, dot)])
    centres = []
    for frame, mask in zip(clip.frames, clip.masks[0], strict=True):
        bright = (frame.min(2) > 200) & mask
        centres.append((np.argwhere(mask).mean(0), np.argwhere(bright).mean(0)))
    for own, inner in centres:
        assert abs(own - inner).max() < 1.5
    assert (centres[2][0] - centres[0][0] > 10).all()
