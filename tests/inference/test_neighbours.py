"""Borders between refined objects: who keeps a contested pixel, who gets a lost one."""

from __future__ import annotations

import numpy as np
import pytest

from vmt.inference.neighbours import settle_borders
from vmt.inference.window_votes import Vote

H, W = 12, 20


def columns(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[2:10, start:stop] = True
    return mask


def vote(level: float, rows: slice = slice(0, H), place: slice = slice(0, W)) -> Vote:
    shape = (rows.stop - rows.start, place.stop - place.start)
    return Vote(rows, place, np.full(shape, level, np.float32), np.ones(shape, bool))


@pytest.mark.parametrize(("levels", "border"), [((0.9, 0.6), 12), ((0.6, 0.9), 8)])
def test_the_more_probable_object_keeps_what_both_claim(
    levels: tuple[float, float], border: int
) -> None:
    coarse = np.stack([columns(2, 10), columns(10, 18)])
    masks = np.stack([columns(2, 12), columns(8, 18)])
    settle_borders(masks, coarse, [vote(level) for level in levels])
    assert (masks[0] == columns(2, border)).all()
    assert (masks[1] == columns(border, 18)).all()


def test_what_was_shared_before_stays_shared() -> None:
    coarse = np.stack([columns(2, 12), columns(8, 18)])
    masks = coarse.copy()
    settle_borders(masks, coarse, [vote(0.9), vote(0.6)])
    assert (masks == coarse).all()


@pytest.mark.parametrize(("levels", "border"), [((0.4, 0.3), 12), ((0.3, 0.4), 9)])
def test_a_gap_between_two_that_touched_is_closed(levels: tuple[float, float], border: int) -> None:
    coarse = np.stack([columns(2, 10), columns(10, 18)])
    masks = np.stack([columns(2, 9), columns(12, 18)])
    settle_borders(masks, coarse, [vote(level) for level in levels])
    assert (masks[0] == columns(2, border)).all()
    assert (masks[1] == columns(border, 18)).all()


def test_a_gap_that_was_there_stays() -> None:
    coarse = np.stack([columns(2, 8), columns(11, 18)])
    masks = np.stack([columns(2, 8), columns(11, 17)])
    before = masks.copy()
    settle_borders(masks, coarse, [vote(0.9), vote(0.9)])
    assert (masks == before).all()


def test_what_a_third_object_took_is_no_gap() -> None:
    coarse = np.stack([columns(2, 10), columns(10, 18), columns(0, 0)])
    masks = np.stack([columns(2, 9), columns(11, 18), columns(9, 11)])
    before = masks.copy()
    settle_borders(masks, coarse, [vote(0.6), vote(0.6), vote(0.9)])
    assert (masks == before).all()


def test_an_object_that_was_not_refined_is_as_sure_as_its_mask() -> None:
    coarse = np.stack([columns(2, 10), columns(10, 18)])
    masks = np.stack([columns(2, 10), columns(8, 18)])
    settle_borders(masks, coarse, [None, vote(0.9)])
    assert (masks == coarse).all()


def test_only_where_the_network_looked_has_it_a_say() -> None:
    coarse = np.stack([columns(2, 10), columns(10, 18)])
    masks = np.stack([columns(2, 10), columns(8, 18)])
    above = vote(1.0, slice(2, 5), slice(6, 18))  # rows 2 to 4
    settle_borders(masks, coarse, [vote(0.7), above])
    assert masks[1, 2:5, 8:10].all()
    assert not masks[0, 2:5, 8:10].any()
    assert masks[0, 5:10, 8:10].all()
    assert not masks[1, 5:10, 8:10].any()


def test_the_order_of_objects_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    coarse = np.stack([columns(0, 7), columns(7, 13), columns(13, 20)])
    masks = np.stack([columns(0, 9), columns(5, 15), columns(12, 20)])
    votes = [
        Vote(slice(0, H), slice(0, W), rng.random((H, W), np.float32), np.ones((H, W), bool))
        for _ in coarse
    ]
    forward, order = masks.copy(), [2, 0, 1]
    settle_borders(forward, coarse, votes)
    backward = masks[order].copy()
    settle_borders(backward, coarse[order], [votes[n] for n in order])
    assert (backward == forward[order]).all()
    assert (forward.sum(0) <= 1).all()
