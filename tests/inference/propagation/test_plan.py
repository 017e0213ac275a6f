"""From which given mask a tracklet reaches a frame."""

from __future__ import annotations

import numpy as np

from vmt.inference.propagation.plan import Plan


def plan(*frames: list[int]) -> Plan:
    """Of tracklets whose masks are given in these frames."""
    given = {}
    for t in {t for own in frames for t in own}:
        given[t] = np.zeros((len(frames), 2, 2), bool)
        given[t][[n for n, own in enumerate(frames) if t in own]] = True
    return Plan(given)


def ways(made: Plan, n: int, count: int) -> str:
    """A letter per frame: given, forwards, backwards, or - for neither."""
    letters = []
    for t in range(count):
        told = {
            "g": n in made.given(t),
            "f": n in made.along(t, forwards=True),
            "b": n in made.along(t, forwards=False),
        }
        assert sum(told.values()) <= 1
        letters.append(next((letter for letter, here in told.items() if here), "-"))
    return "".join(letters)


def test_both_ways_from_one_mask():
    made = plan([2])
    assert ways(made, 0, 6) == "bbgfff"
    assert made.again == 3


def test_masks_meet_in_the_middle():
    assert ways(plan([0, 4]), 0, 6) == "gffbgf"  # frame 2 is as near to both
    assert ways(plan([1, 4]), 0, 6) == "bgfbgf"
    assert plan([0, 4]).again == 5


def test_no_frame_is_wanted_again_without_need():
    assert plan([0]).again == 0
    assert plan([0, 1, 3]).again == 0  # frame 2 comes from frame 1
    assert plan([0, 3, 4]).again == 4
    assert plan([0], [2]).again == 3
    assert plan([1]).again == 2


def test_tracklets_have_plans_of_their_own():
    made = plan([0], [3], [])
    assert [ways(made, n, 4) for n in range(3)] == ["gfff", "bbbg", "----"]
    assert not made.empty
    assert plan([], []).empty
    assert Plan({}).empty
