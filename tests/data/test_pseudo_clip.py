from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.synthetic import moving_shapes
from vmt.data.pseudo_clip import build_pseudo_clip, camera_path, shuffled_copies
from vmt.utils.errors import ConfigError

SIZE = (80, 120)


def flat() -> tuple[np.ndarray, np.ndarray]:
    """Two squares in pure colours on black, and their masks."""
    masks = np.zeros((2, *SIZE), dtype=np.bool_)
    masks[0, 20:50, 20:60] = True
    masks[1, 40:60, 70:100] = True
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    image[masks[0], 0], image[masks[1], 1] = 200, 200
    return image, masks


@pytest.mark.parametrize("name", ["camera", "copies", "released"])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_shapes_and_determinism(name: str, T: int) -> None:
    recipe = build_pseudo_clip(name)
    first, second = (recipe(*flat(), T, np.random.default_rng(3)) for _ in range(2))
    assert tuple(first.frames.shape) == (T, 3, *SIZE)
    assert tuple(first.masks.shape) == (2, T, *SIZE)
    assert first.frames.equal(second.frames)
    assert first.masks.equal(second.masks)
    assert first.cropped == (name != "copies")


def test_copies_are_the_image() -> None:
    image, masks = flat()
    clip = build_pseudo_clip("copies")(image, masks, 3, np.random.default_rng(0))
    for t in range(3):
        np.testing.assert_array_equal(clip.frames[t].permute(1, 2, 0).numpy(), image)
        np.testing.assert_array_equal(clip.masks[:, t].numpy(), masks)


def test_unknown_recipes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"INPUT.STILLS is 'video'; choose camera or copies"):
        build_pseudo_clip("video")


def test_masks_follow_the_camera() -> None:
    """Away from the grey that fills uncovered parts, colour and mask agree to a pixel."""
    for seed in range(10):
        clip = camera_path(*flat(), 5, np.random.default_rng(seed))
        for g in range(2):
            other = clip.frames[:, 1 - g].float()
            colour = clip.frames[:, g].float() - other
            sure = (colour - 100).abs() > 60
            assert (((colour > 100) != clip.masks[g]) & sure).float().mean() < 1e-3


def test_the_camera_at_rest_changes_nothing() -> None:
    video = moving_shapes(1, SIZE, seed=0)
    clip = camera_path(video.frames[0], video.masks[:, 0], 1, np.random.default_rng(0))
    np.testing.assert_array_equal(clip.frames[0].permute(1, 2, 0).numpy(), video.frames[0])
    np.testing.assert_array_equal(clip.masks.numpy(), video.masks)


def test_the_path_is_smooth_and_passes_the_image() -> None:
    image, masks = flat()
    for seed in range(10):
        clip = camera_path(image, masks, 5, np.random.default_rng(seed))
        areas = clip.masks[0].flatten(1).float()
        centres = [np.argwhere(m.numpy()).mean(0) for m in clip.masks[0] if m.any()]
        steps = [np.linalg.norm(b - a) for a, b in pairwise(centres)]
        assert max(steps) < 0.2 * SIZE[1]
        nearest = min(np.linalg.norm(c - np.argwhere(masks[0]).mean(0)) for c in centres)
        assert nearest < 0.1 * SIZE[1]
        assert areas.sum() > 0


def test_overlaps_stay_in_ours_and_go_to_the_later_in_the_published_recipe() -> None:
    image, masks = flat()
    masks[1, 30:60, 40:100] = True  # covers a corner of the first
    native = camera_path(image, masks, 3, np.random.default_rng(0))
    assert (native.masks[0] & native.masks[1]).any()
    release = shuffled_copies(image, masks, 3, np.random.default_rng(0))
    assert not (release.masks[0] & release.masks[1]).any()
    untouched = [t for t in range(3) if (release.masks[1, t].numpy() == masks[1]).all()]
    assert len(untouched) == 1  # the image itself, at a random place


def test_the_published_recipe_holds_the_image_itself() -> None:
    video = moving_shapes(1, SIZE, seed=0)
    places = set()
    for seed in range(12):
        clip = shuffled_copies(video.frames[0], video.masks[:, 0], 4, np.random.default_rng(seed))
        frames = clip.frames.permute(0, 2, 3, 1).numpy()
        same = [t for t in range(4) if (frames[t] == video.frames[0]).all()]
        assert len(same) == 1
        places |= set(same)
    assert places == {0, 1, 2, 3}


def test_more_than_255_objects_do_not_wrap() -> None:
    masks = np.zeros((300, *SIZE), dtype=np.bool_)
    for k in range(300):
        masks[k, k // 20 * 5 : k // 20 * 5 + 4, k % 20 * 6 : k % 20 * 6 + 4] = True
    clip = shuffled_copies(np.zeros((*SIZE, 3), np.uint8), masks, 1, np.random.default_rng(0))
    assert (clip.masks[:, 0].numpy() == masks).all()
