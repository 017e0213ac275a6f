"""From a record and a key frame to a sample: who is a target, and what is made coarse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cocoapi_hq.io import rle
from vmt.data.clip_sampler import sample_local_global
from vmt.data.degrade import Coarseness
from vmt.data.mapper import ClipMapper, clip_targets
from vmt.data.pseudo_clip import camera_path
from vmt.data.records import Tracklet, VideoRecord
from vmt.data.transforms import Clip, Compose, crop_clip
from vmt.utils.errors import AnnotationError

SIZE = (32, 48)
LABELS = {1: 0, 2: 1}


@dataclass(frozen=True)
class Given:
    """Masks per object and frame."""

    tubes: tuple[tuple[Any, ...], ...]

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        assert frames is not None
        return [
            Tracklet(g, g, tuple(tube[t] for t in frames)) for g, tube in enumerate(self.tubes, 1)
        ]


def block(top: int, left: int, side: int = 8) -> Any:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return rle.encode(mask)


class LeftHalf:
    """Cuts the right half off."""

    def make_params(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        return {}

    def apply(self, clip: Clip, params: dict[str, Any]) -> Clip:
        return crop_clip(clip, 0, 0, clip.size[0], clip.size[1] // 2)


@pytest.fixture
def record(tmp_path: Path):
    """Two frames; or one, an image."""

    def make(*tubes: tuple[Any, ...], still: bool = False) -> VideoRecord:
        names = tuple(f"{t}.png" for t in range(len(tubes[0])))
        for name in names:
            cv2.imwrite(str(tmp_path / name), np.zeros((*SIZE, 3), np.uint8))
        return VideoRecord(1, "v", tmp_path, names, *SIZE, Given(tubes), "set", still)

    return make


def sample(record: VideoRecord, key: int = 0, crop: bool = False, **options: Any) -> Any:
    steps = [LeftHalf()] if crop else []
    mapper = ClipMapper(1, sample_local_global, camera_path, Compose(steps), **options)
    return mapper(record, key, LABELS, np.random.default_rng(0))


def labels(found: Any) -> list[int] | None:
    return None if found is None else found["targets"].labels.tolist()


LEFT, RIGHT = block(8, 8), block(8, 30)


@pytest.mark.parametrize(
    ("keep", "crop", "key", "expected"),
    [
        # the first object is always there, the second in the second frame alone
        (False, False, 0, [0]),
        (False, False, 1, [0, 1]),
        (True, False, 0, [0, 1]),
        # the crop takes the second one away, where it is to be seen and where it is not
        (False, True, 1, [0]),
        (True, True, 1, [0]),
        (True, True, 0, [0]),
    ],
)
def test_who_is_a_target(record, keep, crop, key, expected):
    video = record((LEFT, LEFT), (None, RIGHT))
    assert labels(sample(video, key, crop, keep_invisible=keep)) == expected


def test_nothing_in_sight_gives_no_sample(record):
    assert sample(record((None, LEFT)), 0, keep_invisible=True) is None
    assert sample(record((RIGHT, RIGHT)), 0, crop=True, keep_invisible=True) is None
    assert sample(record((LEFT, LEFT), (LEFT, LEFT), (LEFT, LEFT))) is not None, "3 has no label"
    assert labels(sample(record((LEFT,), (LEFT,), (LEFT,)))) == [0, 1]


@pytest.mark.parametrize(("limit", "expected"), [(0, [0, 1]), (1, None), (2, [0, 1]), (25, [0, 1])])
def test_images_with_more_objects_than_the_limit(record, limit, expected):
    image = record((LEFT,), (RIGHT,), still=True)
    assert labels(sample(image, max_image_objects=limit)) == expected


def test_objects_without_a_mask_are_none_of_an_image(record):
    image = record((LEFT,), (None,), still=True)
    assert labels(sample(image, max_image_objects=1, keep_invisible=True)) == [0]


def test_videos_have_no_limit_of_objects(record):
    assert labels(sample(record((LEFT,), (RIGHT,)), max_image_objects=1)) == [0, 1]


def test_boxes_and_visibility_are_those_of_the_masks():
    masks = torch.zeros(2, 2, *SIZE, dtype=torch.bool)
    masks[0, 0, 8:16, 12:36] = True
    masks[1, 1, 31, 47] = True
    targets = clip_targets(masks, torch.tensor([3, 0]))
    assert targets.valid.tolist() == [[True, False], [False, True]]
    expected = torch.full((2, 2, 4), 1e-6)
    expected[0, 0] = torch.tensor([24 / 48, 12 / 32, 24 / 48, 8 / 32])
    expected[1, 1] = torch.tensor([47.5 / 48, 31.5 / 32, 1 / 48, 1 / 32])
    torch.testing.assert_close(targets.boxes_cxcywh, expected)


def test_masks_of_another_size_are_named(record):
    mask = rle.encode(np.ones((4, 4), bool))
    with pytest.raises(AnnotationError, match=r"4, 4.*32, 48"):
        sample(record((mask,)))


def test_degraded_tubes_are_coherent_half_of_the_time(record):
    """Of two equal frames both masks change alike, or each in its own way.

    Three times of ten only a dilation is drawn, which is the same in every frame anyway.
    """
    tube = block(4, 4, 24)
    video = record((tube, tube))
    mapper = ClipMapper(
        2, sample_local_global, camera_path, Compose([]), degrade=(Coarseness.parse("paper"),)
    )
    alike = 0
    for seed in range(24):
        found = mapper(video, 0, LABELS, np.random.default_rng(seed))
        assert found is not None
        first, second = found["coarse"][0]
        alike += bool(torch.equal(first, second))
    assert 11 <= alike <= 20, "0.65 of 24 are 16; with a dilation alone 7"


def test_kinds_are_drawn_tracklet_by_tracklet(record):
    video = record((block(4, 4), block(4, 4)), (block(16, 30), block(16, 30)))
    degrade = (Coarseness.parse("halo"), Coarseness.parse("clean"))
    mapper = ClipMapper(1, sample_local_global, camera_path, Compose([]), degrade=degrade)
    seen = set()
    for seed in range(16):
        found = mapper(video, 0, LABELS, np.random.default_rng(seed))
        assert found is not None
        wider = found["coarse"].sum((1, 2, 3)) > found["targets"].masks.sum((1, 2, 3))
        seen.add(tuple(wider.tolist()))
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


def test_some_frames_are_learned_from_and_all_vote(record, monkeypatch):
    """Image, targets, coarse masks, votes and times are of the same neighbouring frames."""
    video = record(tuple(block(4, 4 + 2 * t, 24) for t in range(4)))
    asked = []

    def votes(frames, masks, chosen, reach):
        asked.append((len(frames), masks.shape[1], list(chosen), reach))
        return np.full((len(masks), len(chosen), 2, *masks.shape[2:]), 9, np.uint8)

    monkeypatch.setattr("vmt.data.mapper.clip_votes", votes)
    mapper = ClipMapper(
        4, sample_local_global, camera_path, Compose([]), degrade=(Coarseness.parse("clean"),),
        votes_reach=2, learn_frames=2,
    )  # fmt: skip
    whole = ClipMapper(4, sample_local_global, camera_path, Compose([]))
    firsts, silent = set(), 0
    for seed in range(40):
        found = mapper(video, 0, LABELS, np.random.default_rng(seed))
        every = whole(video, 0, LABELS, np.random.default_rng(seed))
        assert found is not None
        assert every is not None
        frames, masks, chosen, reach = asked.pop()
        assert (frames, masks, reach, len(chosen)) == (4, 4, 2, 2)
        assert chosen[1] == chosen[0] + 1
        firsts.add(chosen[0])
        own = slice(chosen[0], chosen[0] + 2)
        assert torch.equal(found["image"], every["image"][own])
        assert torch.equal(found["targets"].masks, every["targets"].masks[:, own])
        assert torch.equal(found["coarse"], every["targets"].masks[:, own])
        assert found["targets"].times == every["targets"].times[own]
        assert set(found["votes"].unique().tolist()) <= {0, 9}
        silent += not found["votes"].any()
    assert firsts == {0, 1, 2}
    assert 0 < silent < 12


def test_targets_know_the_indices_of_their_frames(record):
    video = record((LEFT, LEFT))
    assert sample(video, 1)["targets"].frame_times.tolist() == [1]


def test_views_of_an_image_have_times_of_their_own(record):
    image = record((LEFT,), still=True)
    mapper = ClipMapper(3, sample_local_global, camera_path, Compose([]), time_range=4)
    drawn = [mapper(image, 0, LABELS, np.random.default_rng(seed)) for seed in range(40)]
    times = [found["targets"].frame_times.tolist() for found in drawn if found is not None]
    assert {tuple(t) for t in times} == {(0, a, b) for a in range(1, 4) for b in range(a + 1, 5)}
