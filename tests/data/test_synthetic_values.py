"""Degraded masks, composites and drawn frames against values computed by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cocoapi_hq.io import rle
from vmt.data.clip_sampler import sample_local_global, sample_released
from vmt.data.composites import CompositeOptions, _corrupted, _warped_alpha, composite_clip
from vmt.data.degrade import degrade_tube
from vmt.data.degrade_file import degrade_file
from vmt.data.labels import label_table
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError

# --- which frames -------------------------------------------------------------------------------


def test_the_published_draw_repeats_a_neighbour_at_most_once():
    """Far frames differ from one another; the upper neighbour may be drawn once more."""
    repeated = 0
    for seed in range(300):
        frames = sample_released(10, 24, 7, np.random.default_rng(seed))
        counts = Counter(frames)
        twice = [t for t, count in counts.items() if count > 1]
        assert len(frames) == 7
        assert len(twice) <= 1
        assert all(10 < t <= 13 and counts[t] == 2 for t in twice)
        repeated += len(twice)
    assert repeated > 0


@pytest.mark.parametrize(("key", "sides"), [(0, {1}), (10, {-1, 1}), (19, {-1})])
def test_near_neighbours_come_from_both_sides(key: int, sides: set[int]) -> None:
    """Two frames: the other one is within three frames, before or behind."""
    seen = set()
    for seed in range(60):
        a, b = sample_local_global(key, 20, 2, np.random.default_rng(seed))
        other = a + b - key
        assert key in (a, b)
        assert 1 <= abs(other - key) <= 3
        seen.add(int(np.sign(other - key)))
    assert seen == sides


# --- degraded masks -----------------------------------------------------------------------------


def ring(outer: int = 40, inner: int = 20, side: int = 120) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    far = x**2 + y**2
    return np.asarray((far < outer**2) & (far >= inner**2))


def test_holes_stay_holes() -> None:
    """The middle of a hole of 40 px is no part of the object, whatever was drawn."""
    for seed in range(10):
        coarse = degrade_tube(ring()[None], "paper", np.random.default_rng(seed))[0]
        assert coarse.any()
        assert not coarse[56:64, 56:64].any()


def test_the_iou_falls_just_below_a_target_from_080_to_1() -> None:
    ious = []
    for seed in range(25):
        mask = ring(inner=0)
        coarse = degrade_tube(mask[None], "paper", np.random.default_rng(seed))[0]
        ious.append((mask & coarse).sum() / (mask | coarse).sum())
    assert min(ious) > 0.7, "a round of erosions may go a little below the target"
    assert np.mean(ious) > 0.82


@pytest.mark.parametrize("key", ["video_id", "image_id"])
def test_areas_and_boxes_are_those_of_the_new_masks(key: str, tmp_path: Path) -> None:
    mask = rle.encode(ring())
    row = {"id": 1, key: 1, "category_id": 1, "iscrowd": 0, "note": "kept"}
    if key == "video_id":
        row |= {"segmentations": [mask, None], "areas": [7, None], "bboxes": [[0, 0, 1, 1], None]}
        head = {"videos": [{"id": 1, "width": 120, "height": 120}]}
    else:
        row |= {"segmentation": mask, "area": 7, "bbox": [0, 0, 1, 1]}
        head = {"images": [{"id": 1, "width": 120, "height": 120}]}
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps({**head, "annotations": [row], "categories": []}))
    counts = degrade_file(source, out, "halo")
    assert counts == {"annotations": 1, "masks": 1, "crowd": 0}
    (after,) = json.loads(out.read_text())["annotations"]
    new = after["segmentations"][0] if key == "video_id" else after["segmentation"]
    area = after["areas"] if key == "video_id" else after["area"]
    box = after["bboxes"] if key == "video_id" else after["bbox"]
    # 5 px outwards and 5 px into the hole: from 40 and 20 to 45 and 15
    expected = int(rle.decode(new).sum())
    assert expected == pytest.approx(np.pi * (45**2 - 15**2), rel=0.02)
    assert area == ([expected, None] if key == "video_id" else expected)
    edges = [15, 15, 89, 89]  # -44 to 44 around the middle at 60, and the dilation of 5
    first = box[0] if key == "video_id" else box
    assert first == pytest.approx(edges, abs=1)


# --- composites ---------------------------------------------------------------------------------


def test_soft_edges_lie_where_the_texture_does() -> None:
    """A shape twice as fine, enlarged twice and moved by (3, 5): its edge from 10 to 12.5 ... 13.

    Shape column 10 of fine ones begins at 9.5, which is 2 * 9.5 + 5.5 of the finer frame, so 12 of
    the frame: that column is half covered.
    """
    shape = np.zeros((40, 40), np.uint8)
    shape[:, 10:] = 255
    shape[:4] = 0
    warp = np.array([[2, 0, 3], [0, 2, 5]], np.float32)
    alpha = _warped_alpha(shape, warp, (40, 40))
    assert alpha[30, 9:15].tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1], abs=5e-3)
    # rows: 4 begins at 3.5, and 2 * 3.5 + 9.5 of the finer ones is 8
    assert alpha[5:12, 30].tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=5e-3)


def test_noise_moves_in_time() -> None:
    frames = np.full((3, 32, 32, 3), 120, np.float32)
    noisy = 0
    for seed in range(16):
        out = _corrupted(np.random.default_rng(seed), frames)
        if out[0].std() > 1:
            noisy += 1
            assert not np.array_equal(out[0], out[1])
    assert 3 <= noisy <= 13, "one clip of two"


def test_objects_hide_those_behind_them_and_occluders_are_none() -> None:
    """Visible parts never overlap; an occluder takes pixels and gives no mask."""
    options = CompositeOptions(num_frames=2, size=(48, 48), num_objects=3, occluder_prob=1.0)
    free = CompositeOptions(num_frames=2, size=(48, 48), num_objects=3, occluder_prob=0.0)
    areas = []
    for seed in range(6):
        for rules in (options, free):
            clip = composite_clip(np.random.default_rng(seed), rules)
            assert clip.masks.shape == (3, 2, 48, 48)
            assert clip.masks.sum(0).max() <= 1
        areas.append(
            [composite_clip(np.random.default_rng(seed), r).masks.sum() for r in (options, free)]
        )
    hidden, seen = np.sum(areas, axis=0)
    assert hidden < seen


# --- classes ------------------------------------------------------------------------------------


def test_a_file_of_which_nothing_is_left_is_refused() -> None:
    space = LabelSpace("pets", ("cat", "dog"), (1, 2))
    assert label_table({5: "Cat", 6: "cow"}, space, source="x", unknown="drop") == {5: 0}
    with pytest.raises(ConfigError, match="1 of 1 categories"):
        label_table({6: "cow"}, space, source="x", unknown="drop")
    with pytest.raises(ConfigError, match="1 of 2 categories"):
        label_table({5: "cat", 6: "cow"}, space, source="x")
