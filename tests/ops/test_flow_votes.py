"""What neighbouring frames say of a mask, against motions that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vmt.ops.flow_votes import (
    clip_votes,
    flows_between,
    grey_for_flow,
    shrinkage,
    smaller,
    votes_for,
)


def video(frames: int = 5, step: int = 3, size: tuple[int, int] = (120, 160)):
    """A textured disc over other texture, moving to the right; frames and masks (1, T, H, W)."""
    rng = np.random.default_rng(0)
    ground, thing = (
        cv2.GaussianBlur(rng.uniform(0, 255, (*size, 3)).astype(np.float32), (0, 0), 2) * 4 - 380
        for _ in range(2)
    )
    rows, columns = np.mgrid[: size[0], : size[1]]
    pictures, masks = [], []
    for t in range(frames):
        mask = np.hypot(rows - size[0] / 2, columns - size[1] / 3 - step * t) < size[0] / 5
        layer = np.roll(thing, step * t, 1)
        pictures.append(np.where(mask[..., None], layer, ground).clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return pictures, np.stack(masks)[None]


def wrong(votes: np.ndarray, truth: np.ndarray) -> float:
    """Share of the object that the majority has otherwise."""
    return np.count_nonzero((votes[0] > 127) ^ truth) / np.count_nonzero(truth)


def test_flow_finds_a_known_motion_and_trusts_it() -> None:
    pictures, masks = video(2)
    there, back = flows_between(*map(grey_for_flow, pictures))
    inner = cv2.erode(masks[0, 0].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    rows, columns = np.nonzero(inner)
    moved = there.place[inner] - np.stack([columns, rows], 1)
    assert abs(np.median(moved, 0) - (3, 0)).max() < 0.1
    assert there.trust[inner].mean() > 0.8
    inner = cv2.erode(masks[0, 1].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    rows, columns = np.nonzero(inner)
    moved = back.place[inner] - np.stack([columns, rows], 1)
    assert abs(np.median(moved, 0) - (-3, 0)).max() < 0.1


def test_what_is_gone_is_not_trusted() -> None:
    pictures, _ = video(2)
    pictures[1] = np.random.default_rng(5).integers(0, 255, pictures[1].shape, dtype=np.uint8)
    there, _ = flows_between(*map(grey_for_flow, pictures))
    assert there.trust.mean() < 0.1


def test_neighbours_agree_about_a_piece_that_one_mask_misses() -> None:
    pictures, masks = video()
    given = masks.copy()
    given[0, 2, :, : int(np.argwhere(masks[0, 2]).mean(0)[1])] = False  # half of it
    votes = clip_votes(pictures, given, [2], 2)[0, 0]
    assert np.count_nonzero(given[0, 2] ^ masks[0, 2]) > 0.4 * np.count_nonzero(masks[0, 2])
    assert wrong(votes, masks[0, 2]) < 0.1
    assert votes[1][masks[0, 2]].mean() > 0.6 * 255


def test_votes_are_counted_of_as_many_as_there_could_be() -> None:
    """At an end of the clip half of the neighbours are missing; one without the object is mute."""
    pictures, masks = video(step=0)
    counts = clip_votes(pictures, masks, [0, 2], 2)[0, :, 1][:, masks[0, 0]].mean(1)
    assert counts[0] == pytest.approx(counts[1] / 2, rel=0.05)
    assert counts[1] > 0.9 * 255
    masks[:, 3] = False
    fewer = clip_votes(pictures, masks, [2], 2)[0, 0, 1][masks[0, 2]].mean()
    assert fewer == pytest.approx(0.75 * counts[1], rel=0.05)
    assert not clip_votes(pictures, masks, [3], 2).any(), "nobody is asked about what is not there"


def test_the_share_weighs_neighbours_by_trust() -> None:
    own = np.zeros((1, 64, 64), np.bool_)
    own[0, 20:40, 20:40] = True
    place = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).astype(np.float32)
    flows = [
        type(flows_between(*[np.zeros((64, 64), np.uint8)] * 2)[0])(
            place, np.full((64, 64), trust, np.float32)
        )
        for trust in (1.0, 0.5)
    ]
    said = votes_for(own, [own, np.roll(own, 15, 2)], flows, 4)
    assert said[0, 0, 30, 30] == round(255 * 1 / 1.5)
    assert said[0, 0, 30, 50] == round(255 * 0.5 / 1.5)
    assert said[0, 1, 30, 30] == round(255 * 1.5 / 4)
    elsewhere = votes_for(own, [own, np.roll(own, 22, 2)], flows, 4)
    assert (elsewhere == votes_for(own, [own], flows[:1], 4)).all(), "that is another object"


def test_large_frames_are_made_smaller_and_votes_come_back_in_place() -> None:
    assert [shrinkage(h, w) for h, w in ((320, 320), (480, 854), (1080, 1920))] == [1, 2, 5]
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5)
    expected = [[odd[:2, :2].mean(), odd[:2, 2:4].mean(), odd[:2, 4].mean()],
                [odd[2, :2].mean(), odd[2, 2:4].mean(), odd[2, 4]]]  # fmt: skip
    assert abs(smaller(odd, 2) - np.array(expected)).max() <= 0.5
    pictures, masks = video(3, step=6, size=(301, 903))
    votes = clip_votes(pictures, masks, [1], 1)[0, 0]
    assert votes.shape == (2, 301, 903)
    assert wrong(votes, masks[0, 1]) < 0.05
