"""Tracklets from one mask: both ways, through occlusion, out of the frame, past one another."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tests.inference.propagation.clips import H, W, clip, iou, texture
from vmt.inference.propagation.propagator import MaskPropagator
from vmt.inference.propagation.view import View, ViewMaker


@pytest.fixture(scope="module")
def propagator() -> MaskPropagator:
    """Without a refiner: what propagation does by itself."""
    return MaskPropagator(None, ViewMaker.from_pretrained("cpu"))


def test_a_square_is_followed_both_ways(propagator: MaskPropagator) -> None:
    frames, masks = clip([(20 + 3 * t, 20 + 6 * t) for t in range(9)])
    done = propagator.propagate(frames, {4: masks[:, 4]})
    assert done.masks.shape == masks.shape
    assert (done.masks[:, 4] == masks[:, 4]).all()
    for t in range(9):
        assert iou(done.masks[0, t], masks[0, t]) > 0.85, t
    assert (done.confidence > 0.5).all()


def test_a_plain_mask_will_do(propagator: MaskPropagator) -> None:
    frames, masks = clip([(20, 20), (20, 24)])
    done = propagator.propagate(frames, {0: masks[0, 0]})
    assert done.masks.shape == (1, 2, H, W)
    assert iou(done.masks[0, 1], masks[0, 1]) > 0.85


def test_an_object_that_leaves_has_no_mask(propagator: MaskPropagator) -> None:
    frames, masks = clip([(40, 90 + 16 * t) if t < 7 else None for t in range(10)])
    done = propagator.propagate(frames, {0: masks[:, 0]})
    for t in range(7):
        assert iou(done.masks[0, t], masks[0, t]) > 0.8, t
    assert not done.masks[0, 7:].any()
    assert (done.confidence[0, 7:] < done.confidence[0, :6].min()).all()


def test_an_object_is_found_again_behind_a_wall(propagator: MaskPropagator) -> None:
    frames, masks = clip([(40, 8 + 8 * t) for t in range(17)], wall=slice(66, 124))
    hidden = np.flatnonzero(~masks[0].any((1, 2))).tolist()
    assert hidden == [8, 9]
    done = propagator.propagate(frames, {0: masks[:, 0]})
    assert not done.masks[0, hidden].any()
    for t in (0, 1, 2, 3, 4, 5, 13, 14, 15, 16):
        assert iou(done.masks[0, t], masks[0, t]) > 0.8, t


def test_crossing_objects_keep_their_names(propagator: MaskPropagator) -> None:
    tracks = [(30, 8 + 8 * t) for t in range(15)], [(56, 132 - 8 * t) for t in range(15)]
    frames, masks = clip(*tracks)
    done = propagator.propagate(frames, {0: masks[:, 0]})
    for n in range(2):
        assert min(iou(done.masks[n, t], masks[n, t]) for t in range(15)) > 0.75
    assert not (done.masks[0] & done.masks[1]).any()


def test_every_tracklet_comes_once_per_frame(propagator: MaskPropagator) -> None:
    tracks = [(10, 20 + 4 * t) for t in range(6)], [(80, 120 - 4 * t) for t in range(6)]
    frames, masks = clip(*tracks)
    given = {1: masks[:, 1] & [[[True]], [[False]]], 4: masks[:, 4]}
    parts = list(propagator.stream(iter(frames), given))
    seen = sorted((n, part.frame) for part in parts for n in part.tracklets.tolist())
    assert seen == [(n, t) for n in range(2) for t in range(6)]
    assert [(p.frame, p.tracklets[p.given].tolist()) for p in parts if p.given.any()] == [
        (1, [0]),
        (4, [0, 1]),
    ]
    for part in parts:
        for n, mask in zip(part.tracklets, part.masks, strict=True):
            assert iou(mask, masks[n, part.frame]) > 0.8


def test_memory_is_flat() -> None:
    alive: weakref.WeakSet[View] = weakref.WeakSet()
    most = []
    maker = ViewMaker.from_pretrained("cpu")

    def make(frame: np.ndarray) -> View:
        view = maker(frame)
        alive.add(view)
        gc.collect()
        most.append(len(alive))
        return view

    frames, masks = clip([(40, 20 + 2 * (t % 20)) for t in range(24)])
    assert len(list(MaskPropagator(None, make).stream(frames, {0: masks[:, 0]}))) == 24
    assert max(most) <= 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "there is no mask"),
        ({0: np.zeros((1, H, W), bool)}, "there is no mask"),
        ({0: np.ones((1, H, W), bool), 1: np.ones((2, H, W), bool)}, "of one shape"),
        ({0: np.ones((1, H, W + 1), bool)}, "give masks of the frames' size"),
        ({5: np.ones((1, H, W), bool)}, "of frame 5, but there are 2 frames"),
    ],
)
def test_what_does_not_fit_is_said(
    propagator: MaskPropagator, given: dict[int, np.ndarray], said: str
) -> None:
    frames, _ = clip([(20, 20), (20, 24)])
    with pytest.raises(ValueError, match=said):
        list(propagator.stream(frames, given))


@pytest.mark.parametrize("size", [(4, 4), (12, 20), (37, 53), (530, 500)])
@pytest.mark.parametrize("kind", ["pixel", "whole"])
def test_odd_sizes(propagator: MaskPropagator, size: tuple[int, int], kind: str) -> None:
    frames = np.stack([texture(0, *size, (120, 90, 60))] * 2)
    mask = np.zeros(size, bool)
    mask[slice(None) if kind == "whole" else 2, slice(None) if kind == "whole" else 3] = True
    done = propagator.propagate(frames, {1: mask})
    assert (done.masks[0, 1] == mask).all()
    if kind == "whole":
        assert iou(done.masks[0, 0], mask) > 0.9
    assert 0 <= done.confidence.min() <= done.confidence.max() <= 1
