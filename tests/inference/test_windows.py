"""Every stream is covered by windows as the rule says, whatever its length."""

from collections.abc import Iterator

import pytest

from vmt.inference.windows import iter_windows
from vmt.utils.errors import VideoError


def expected_starts(frames: int, length: int, stride: int) -> list[int]:
    """The rule written for a known length: steps, then one window that ends with the video."""
    if frames <= length:
        return [0] if frames else []
    starts = list(range(0, frames - length + 1, stride))
    return starts if starts[-1] + length == frames else [*starts, frames - length]


@pytest.mark.parametrize("length", range(1, 8))
def test_windows_follow_the_rule(length: int) -> None:
    for stride in range(1, length + 1):
        for frames in range(24):
            windows = list(iter_windows(iter(range(frames)), length, stride))
            assert [w.start for w in windows] == expected_starts(frames, length, stride)
            for window in windows:
                assert window.frames == list(range(window.start, window.end))
            later = [w.start for w in windows[1:]] + ([frames] if windows else [])
            assert [w.final_until for w in windows] == later
            assert [w.last for w in windows] == [False] * (len(windows) - 1) + [True] * bool(frames)


def test_the_whole_video_is_one_window() -> None:
    (window,) = iter_windows(range(17), 0, 0)
    assert (window.start, window.frames, window.final_until) == (0, list(range(17)), 17)
    assert list(iter_windows([], 0, 0)) == []


def test_frames_are_read_one_step_ahead() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for t in range(100):
            read.append(t)
            yield t

    windows = iter_windows(source(), 5, 4)
    next(windows)
    assert len(read) == 9
    next(windows)
    assert len(read) == 13


def test_a_source_that_breaks_off_ends_like_a_short_video() -> None:
    def source() -> Iterator[int]:
        yield from range(7)
        raise VideoError("cut short")

    windows = iter_windows(source(), 5, 4)
    seen = [next(windows), next(windows)]
    with pytest.raises(VideoError, match="cut short"):
        next(windows)
    assert [(w.start, w.end) for w in seen] == [(0, 5), (2, 7)]


def test_a_step_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="1 <= stride <= length"):
        next(iter_windows(range(9), 4, 5))
