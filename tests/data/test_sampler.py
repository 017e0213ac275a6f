from __future__ import annotations

import numpy as np
import pytest

from vmt.data.clip_sampler import build_sampler, draw_times
from vmt.utils.errors import ConfigError

NAMES = ("local_global", "released", "range", "span")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 9, 60])
def test_properties(name: str, T: int, length: int) -> None:
    sample = build_sampler(name, 4)
    rng = np.random.default_rng(0)
    for key in range(length):
        frames = sample(key, length, T, rng)
        assert len(frames) == T
        assert frames == sorted(frames)
        assert key in frames
        assert all(isinstance(t, int) and 0 <= t < length for t in frames)
        if name == "span":
            assert len(set(frames)) == min(T, length, 5), "no more than 5 lie within 4"
            assert frames[-1] - frames[0] <= 4
        elif name != "released":
            assert len(set(frames)) == min(T, length)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_frames(name: str) -> None:
    sample = build_sampler(name, 10)
    first = [sample(7, 40, 5, np.random.default_rng(3)) for _ in range(2)]
    assert first[0] == first[1]
    others = {tuple(sample(7, 40, 5, np.random.default_rng(s))) for s in range(20)}
    assert len(others) > 10


@pytest.mark.parametrize("name", ["local_global", "released"])
def test_neighbours_are_near_and_the_rest_lies_outside(name: str) -> None:
    sample, rng = build_sampler(name, 1), np.random.default_rng(0)
    far = set()
    for _ in range(300):
        frames = sample(30, 60, 5, rng)
        near = [t for t in frames if abs(t - 30) <= 3]
        assert any(t < 30 for t in near)
        assert any(t > 30 for t in near)
        far |= set(frames) - set(near)
    assert len(far) > 40  # from the whole video


def test_range_stays_near() -> None:
    sample, rng = build_sampler("range", 6), np.random.default_rng(0)
    seen = {t for _ in range(200) for t in sample(30, 60, 5, rng)}
    assert seen == set(range(24, 37))


def test_a_span_holds_all_frames_of_a_clip() -> None:
    """Two frames are up to 6 to either side of the key; more never span more than 6."""
    sample, rng = build_sampler("span", 6), np.random.default_rng(0)
    pairs = [sample(30, 60, 2, rng) for _ in range(300)]
    assert {b + a - 60 for a, b in pairs} == set(range(-6, 7)) - {0}
    five = [sample(30, 60, 5, rng) for _ in range(300)]
    assert max(frames[-1] - frames[0] for frames in five) == 6
    assert {t for frames in five for t in frames} == set(range(24, 37))


@pytest.mark.parametrize("T", [1, 2, 3, 5])
def test_times_of_an_image_start_at_0_and_keep_to_the_range(T: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_times(T, 10, rng) for _ in range(300)]
    assert all(len(times) == len(set(times)) == T for times in drawn)
    assert all(times[0] == 0 and times == sorted(times) for times in drawn)
    assert {t for times in drawn for t in times[1:]} == (set(range(1, 11)) if T > 1 else set())


def test_more_times_than_frames_repeat() -> None:
    assert draw_times(4, 1, np.random.default_rng(0)) == [0, 1, 1, 1]


def test_two_frames_are_neighbours() -> None:
    sample, rng = build_sampler("local_global", 1), np.random.default_rng(0)
    seen = {tuple(sample(10, 20, 2, rng)) for _ in range(200)}
    assert {abs(b - a) for a, b in seen} == {1, 2, 3}
    assert len(seen) == 6


def test_the_published_draw_repeats_frames_as_published() -> None:
    sample, rng = build_sampler("released", 1), np.random.default_rng(0)
    at_start = [sample(0, 40, 5, rng) for _ in range(50)]
    assert all(frames[:2] == [0, 0] for frames in at_start)  # the neighbour before frame 0 is 0
    doubles = [sample(20, 24, 5, rng) for _ in range(300)]
    assert any(len(set(f)) < 5 and f.count(20) == 1 for f in doubles)  # the upper neighbour again


def test_messages() -> None:
    with pytest.raises(
        ConfigError, match=r"INPUT.SAMPLER is 'near'; choose local_global, range or"
    ):
        build_sampler("near", 1)
    with pytest.raises(ConfigError, match=r"INPUT.SAMPLER_RANGE is 0"):
        build_sampler("range", 0)
    with pytest.raises(ConfigError, match=r"three frames for INPUT.CLIP_FRAMES 2"):
        build_sampler("released", 1)(0, 9, 2, np.random.default_rng(0))
