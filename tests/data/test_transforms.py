"""Augmentation: masks stay on their objects, boxes on their masks, parameters are drawn once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from tests.synthetic import moving_shapes
from vmt.data.mapper import clip_targets
from vmt.data.transforms import (
    Clip,
    ColorJitter,
    Flip,
    LargeScaleJitter,
    PerFrame,
    ReleaseJitter,
    Resize,
    ResizeOrCrop,
    build_augmentation,
    crop_clip,
    resize_clip,
    size_of_short_side,
)
from vmt.structures.boxes import cxcywh_to_xyxy
from vmt.utils.errors import ConfigError

RECIPES = ("default", "released", "lsj", "none")


def flat_clip(size: tuple[int, int] = (60, 90), num_frames: int = 3) -> Clip:
    """Objects in pure colours on black: the pixels themselves say where the mask must be."""
    video = moving_shapes(num_frames, size, seed=1)
    frames = np.zeros_like(video.frames)
    for g, masks in enumerate(video.masks):
        frames[masks] = np.eye(3)[g] * 200
    return Clip(
        tv_tensors.Video(torch.from_numpy(frames).permute(0, 3, 1, 2)),
        tv_tensors.Mask(torch.from_numpy(video.masks)),
    )


def geometry() -> dict[str, Any]:
    resize = Resize([37, 75], 120)
    return {
        "flip": Flip(1.0),
        "resize": resize,
        "crop": ResizeOrCrop(1.0, [50, 80], (30, 60), resize),
        "crop twice": ResizeOrCrop(1.0, [50, 80], (30, 60), resize, twice=True),
        "lsj": LargeScaleJitter((50, 70), (0.5, 2.0)),
        "lsj per frame": PerFrame(LargeScaleJitter((50, 70), (0.5, 2.0))),
    }


@pytest.mark.parametrize("name", geometry())
def test_masks_stay_on_their_objects(name: str) -> None:
    """Where the object's colour covers more than half of a pixel, the mask is set."""
    transform = geometry()[name]
    for seed in range(6):
        clip = flat_clip()
        rng = np.random.default_rng(seed)
        moved = transform.apply(clip, transform.make_params(clip, rng))
        assert moved.frames.shape[-2:] == moved.masks.shape[-2:]
        for g in range(2):
            colour = moved.frames[:, g].float()  # (T, H, W)
            sure = (colour - 100).abs() > 60
            wrong = ((colour > 100) != moved.masks[g]) & sure
            assert wrong.float().mean() < 2e-3


@pytest.mark.parametrize("name", RECIPES)
def test_boxes_agree_with_masks_after_every_recipe(name: str, make_config: Any) -> None:
    augment = build_augmentation(make_config().INPUT, name)
    for seed in range(12):
        clip = augment(flat_clip(), np.random.default_rng(seed))
        assert clip.frames.dtype == torch.uint8
        masks = clip.masks.as_subclass(torch.Tensor)
        targets = clip_targets(masks, torch.zeros(2, dtype=torch.int64))
        h, w = clip.size
        boxes = cxcywh_to_xyxy(targets.boxes_cxcywh) * torch.tensor([w, h, w, h])
        for g, t in np.ndindex(2, 3):
            ys, xs = torch.nonzero(masks[g, t], as_tuple=True)
            assert targets.valid[g, t] == (len(ys) > 0)
            if len(ys):
                expected = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
                torch.testing.assert_close(boxes[g, t], expected, atol=1e-3, rtol=0)
            else:
                assert targets.boxes_cxcywh[g, t].tolist() == pytest.approx([1e-6] * 4)


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_clip_and_leaves_the_global_state_alone(
    name: str, make_config: Any
) -> None:
    augment = build_augmentation(make_config().INPUT, name)
    state = torch.get_rng_state()
    first = augment(flat_clip(), np.random.default_rng(9))
    torch.manual_seed(123)
    state_after = torch.get_rng_state()
    second = augment(flat_clip(), np.random.default_rng(9))
    assert torch.equal(torch.get_rng_state(), state_after)
    torch.set_rng_state(state)
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.masks, second.masks)


@pytest.mark.parametrize("name", ["default", "lsj", "none"])
def test_one_draw_per_clip(name: str, make_config: Any) -> None:
    """Equal frames stay equal: whatever is drawn is drawn for the clip."""
    augment = build_augmentation(make_config().INPUT, name)
    clip = flat_clip()
    still = Clip(clip.frames[:1].expand(3, -1, -1, -1), clip.masks[:, :1].expand(-1, 3, -1, -1))
    for seed in range(8):
        out = augment(still, np.random.default_rng(seed))
        assert torch.equal(out.frames[0], out.frames[2])
        assert torch.equal(out.masks[:, 0], out.masks[:, 2])


def test_jitter_per_frame_makes_equal_frames_differ(make_config: Any) -> None:
    """Scales, windows and flips are independent: so are the frames, and each mask goes along."""
    node = make_config(INPUT__LSJ_DRAW="frame", INPUT__COLOR_PROB=0.0).INPUT
    clip = flat_clip()
    still = Clip(clip.frames[:1].expand(2, -1, -1, -1), clip.masks[:, :1].expand(-1, 2, -1, -1))
    differ = sum(
        not torch.equal(*build_augmentation(node, "lsj")(still, np.random.default_rng(k)).frames)
        for k in range(20)
    )
    assert differ == 20
    flips = [
        PerFrame(Flip(0.5)).make_params(still, np.random.default_rng(k))["frames"]
        for k in range(64)
    ]
    unequal = sum(a["flip"] != b["flip"] for a, b in flips)
    assert 20 <= unequal <= 44


def test_the_published_jitter_draws_per_frame_and_wraps() -> None:
    bright = Clip(
        tv_tensors.Video(torch.full((4, 3, 8, 8), 250, dtype=torch.uint8)),
        tv_tensors.Mask(torch.ones(1, 4, 8, 8, dtype=torch.bool)),
    )
    jitter, seen, wrapped = ReleaseJitter(), 0, False
    for seed in range(10):
        out = jitter.apply(bright, jitter.make_params(bright, np.random.default_rng(seed)))
        seen += len({int(frame[0, 0, 0]) for frame in out.frames})
        wrapped |= bool((out.frames < 80).any())
    assert seen > 20
    assert wrapped


def test_the_published_jitter_at_rest_changes_nothing_and_takes_rgb_for_bgr() -> None:
    rest = {
        "brightness": 0.0,
        "contrast": 1.0,
        "contrast_first": False,
        "saturation": 1.0,
        "hue": 0.0,
        "channels": np.arange(3),
    }
    clip = flat_clip()
    same = ReleaseJitter().apply(clip, {"frames": [rest] * 3})
    assert torch.equal(same.frames, clip.frames)
    # Red turned by +60 degrees is yellow; the release reads red as blue, which turns to magenta.
    red = Clip(
        tv_tensors.Video(torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)), clip.masks
    )
    turned = ReleaseJitter().apply(red, {"frames": [rest | {"hue": 60.0}]})
    assert turned.frames.flatten().tolist() == pytest.approx([200, 0, 200], abs=1)


def test_colour_jitter_keeps_grey_grey_and_clips() -> None:
    grey = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    clip = Clip(tv_tensors.Video(grey), tv_tensors.Mask(torch.ones(1, 2, 16, 16).bool()))
    jitter, changed = ColorJitter(1.0), 0
    for seed in range(20):
        out = jitter.apply(clip, jitter.make_params(clip, np.random.default_rng(seed))).frames
        spread = out.int().amax(1) - out.int().amin(1)
        assert spread.max() <= 1
        values = out[0, 0].flatten().int()
        assert (values.diff() >= 0).all()  # rises with the input: nothing wraps
        changed += int(not torch.equal(out, grey))
    assert changed > 10


def test_flip_twice_is_the_clip_itself() -> None:
    clip = flat_clip()
    once = Flip(1.0).apply(clip, {"flip": True})
    assert torch.equal(once.masks[..., 0], clip.masks[..., -1])
    twice = Flip(1.0).apply(once, {"flip": True})
    assert torch.equal(twice.frames, clip.frames)
    assert torch.equal(twice.masks, clip.masks)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((720, 1280), 360, 0, (360, 640)),
        ((720, 1280), 512, 768, (432, 768)),  # the long side wins
        ((1280, 720), 360, 0, (640, 360)),
        ((480, 854), 320, 768, (320, 569)),
        ((100, 100), 50, 0, (50, 50)),
        ((360, 640), 360, 768, (360, 640)),
    ],
)
def test_size_of_short_side(
    size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]
) -> None:
    assert size_of_short_side(size, short, longest) == expected


def test_a_crop_on_the_source_shows_the_same_as_a_crop_after_the_resize() -> None:
    resize = Resize([40], 0)
    once = ResizeOrCrop(1.0, [50, 80], (30, 60), resize)
    twice = ResizeOrCrop(1.0, [50, 80], (30, 60), resize, twice=True)
    for seed in range(5):
        clip = flat_clip((120, 180))
        params = once.make_params(clip, np.random.default_rng(seed))
        a, b = once.apply(clip, params), twice.apply(clip, params)
        assert a.size == b.size
        assert (a.masks != b.masks).float().mean() < 0.02


def test_crop_marks_the_clip() -> None:
    clip = flat_clip()
    assert not resize_clip(clip, (30, 45)).cropped
    cut = crop_clip(clip, 5, 7, 20, 30)
    assert cut.cropped
    assert torch.equal(cut.masks, clip.masks[..., 5:25, 7:37])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"INPUT__AUGMENTATION": "strong"}, "INPUT.AUGMENTATION is 'strong'; choose default, lsj"),
        ({"INPUT__MIN_SIZE_TRAIN": []}, r"INPUT.MIN_SIZE_TRAIN is \[\]; give sizes in pixels"),
        ({"INPUT__CROP_SIZE": [600, 384]}, r"INPUT.CROP_SIZE is \[600, 384\]; give two values"),
        ({"INPUT__LSJ_SIZE": [64]}, r"INPUT.LSJ_SIZE is \[64\]; give two values"),
        ({"INPUT__LSJ_DRAW": "view"}, "INPUT.LSJ_DRAW is 'view'; choose clip or frame"),
        ({"INPUT__LSJ_SCALE": [0.0, 1.0]}, r"INPUT.LSJ_SCALE is \[0.0, 1.0\]"),
        ({"INPUT__FLIP_PROB": 1.5}, "INPUT.FLIP_PROB is 1.5; give a probability"),
    ],
)
def test_messages(values: dict[str, Any], message: str, make_config: Any) -> None:
    node = make_config(**values).INPUT
    with pytest.raises(ConfigError, match=message):
        build_augmentation(node, node.AUGMENTATION)
