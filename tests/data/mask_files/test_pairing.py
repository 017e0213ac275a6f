"""Which masks belong to which frame, or that it is not certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoapi_hq.io.listing import natural_key
from vmt.data.mask_files.base import FrameSet
from vmt.data.mask_files.pairing import pair
from vmt.utils.errors import AnnotationError


def files(*names: str) -> dict[str, Path]:
    return {name: Path("masks") / f"{name}.png" for name in sorted(names, key=natural_key)}


def clip(count: int) -> FrameSet:
    return FrameSet("clip.mp4", (4, 4), None, count)


def folder(*stems: str) -> FrameSet:
    return FrameSet("frames", (4, 4), stems, len(stems))


def numbered(template: str, numbers: range) -> list[str]:
    return [template.format(n) for n in numbers]


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        # One per frame: in order of their numbers, wherever they start.
        (numbered("{}", range(12)), 12, {t: str(t) for t in range(12)}),
        (numbered("{:05d}", range(1, 7)), 6, {t: f"{t + 1:05d}" for t in range(6)}),
        (numbered("{}", range(0, 30, 5)), 6, {t: str(5 * t) for t in range(6)}),
        (numbered("v2_{}_x", range(98, 104)), 6, {t: f"v2_{98 + t}_x" for t in range(6)}),
        (["b9", "a10", "a11"], 3, {0: "b9", 1: "a10", 2: "a11"}),
        (["b", "a"], 2, {0: "a", 1: "b"}),
        (["7"], 1, {0: "7"}),
        # A few: 0 is there, so they count from 0.
        (["0", "3", "5"], 6, {0: "0", 3: "3", 5: "5"}),
        (["cam2_frame0_v3", "cam2_frame4_v3"], 6, {0: "cam2_frame0_v3", 4: "cam2_frame4_v3"}),
        # The number of the last frame counted from 1, so they count from 1.
        (["f_00002", "f_00006"], 6, {1: "f_00002", 5: "f_00006"}),
    ],
)
def test_masks_of_a_video_file(names: list[str], count: int, expected: dict[int, str]) -> None:
    assert pair(files(*names), clip(count), "mask").names == expected


@pytest.mark.parametrize(
    ("names", "first", "expected"),
    [
        (["1", "4"], 0, {1: "1", 4: "4"}),
        (["1", "4"], 1, {0: "1", 3: "4"}),
        (["101", "103"], 100, {1: "101", 3: "103"}),
        (numbered("{}", range(1, 6)), 1, {t: str(t + 1) for t in range(5)}),
    ],
)
def test_the_first_number_is_given(names: list[str], first: int, expected: dict[int, str]) -> None:
    assert pair(files(*names), clip(6), "mask", first).names == expected


@pytest.mark.parametrize(
    ("names", "count", "said"),
    [
        (
            ["1", "4"],
            6,
            "numbers 1 to 4 in the names of 2 masks may count the 6 frames of clip.mp4",
        ),
        (["3"], 6, "number 3 in the name of one mask may count the 6 frames"),
        (numbered("{:05d}", range(1, 6)), 6, "or from 1 as ffmpeg does; say which: --first-number"),
        (["0", "6"], 6, r"masks/6.png: is for frame 6, but clip.mp4 has frames 0 to 5; number"),
        (["1", "7"], 6, r"masks/7.png: is for frame 7, but clip.mp4 has frames 0 to 5"),
        (["0", "1", "2", "3", "5", "6"], 6, r"masks/6.png: is for frame 6"),
        (["a", "b"], 6, "2 masks for the 6 frames of clip.mp4, and no number in its name tells"),
        (["0_1", "0_2", "1_1"], 6, "none of the 2 numbers in a name tells which frame"),
        (["cam2_frame3"], 6, "none of the 2 numbers in a name"),
        (["1", "01"], 6, "no number of its own tells"),
    ],
)
def test_it_is_not_certain(names: list[str], count: int, said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        pair(files(*names), clip(count), "mask")


def test_what_is_said_of_frames_without_masks() -> None:
    assert pair(files("0", "1", "4"), clip(6), "mask").note == (
        "3 of 6 frames have no mask and are left alone: 2 to 3, 5."
    )
    assert pair(files("b", "a"), clip(2), "label map").note == (
        "Label maps and frames pair in order: a is for frame 0."
    )


@pytest.mark.parametrize(
    ("names", "stems", "expected", "said"),
    [
        # By name, though there are as many, in another order.
        (["b", "a"], ["b", "a"], {0: "b", 1: "a"}, ""),
        (["00001"], ["00000", "00001"], {1: "00001"}, "1 of 2 frames have no mask"),
        # No name in common: by number.
        (["m_2", "m_10"], ["f1", "f2", "f10"], {1: "m_2", 2: "m_10"}, "by the number in their nam"),
        (["mask1", "mask2"], ["v3_1", "v3_2"], {0: "mask1", 1: "mask2"}, "mask1 is for frame v3_1"),
        # No number in common, but as many: in order.
        (["m1", "m2", "m10"], ["a0", "a1", "a2"], {0: "m1", 1: "m2", 2: "m10"}, "pair in order"),
    ],
)
def test_masks_beside_frames_with_names(
    names: list[str], stems: list[str], expected: dict[int, str], said: str
) -> None:
    pairing = pair(files(*names), folder(*stems), "mask")
    assert pairing.names == expected
    assert said in pairing.note
    assert bool(said) == bool(pairing.note)


@pytest.mark.parametrize(
    ("names", "stems", "said"),
    [
        (
            ["1", "2", "3"],
            ["0", "1", "2"],
            r"masks/3.png: no frame of that name in frames",
        ),
        (["1", "2", "3"], ["0", "1", "2"], "do both count from the same number"),
        (["a", "x"], ["a", "b", "c"], r"masks/x.png: no frame of that name in frames \(1 of 2"),
        (["m7"], ["f1", "f2"], r"masks/m7.png: no frame of that name"),
        (
            ["1_1", "1_2"],
            ["1", "2", "3"],
            "one file per object and frame is read from a folder per",
        ),
    ],
)
def test_masks_that_no_frame_has(names: list[str], stems: list[str], said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        pair(files(*names), folder(*stems), "mask")


def test_a_first_number_beside_frames_with_names() -> None:
    with pytest.raises(AnnotationError, match="--first-number 1: is for masks of a video file"):
        pair(files("1"), folder("1"), "mask", 1)


@pytest.mark.parametrize(
    ("names", "frames", "first", "expected"),
    [
        (["00002"], folder(*numbered("{:05d}", range(4))), None, numbered("{:05d}", range(4))),
        (["a", "c"], folder("a", "b", "c"), None, ["a", "b", "c"]),
        (
            ["mask_07_v2", "mask_09_v2"],
            folder("f6", "f7", "f8", "f9", "f10"),
            None,
            ["mask_06_v2", "mask_07_v2", "mask_08_v2", "mask_09_v2", "mask_10_v2"],
        ),
        (["00002"], clip(4), 0, numbered("{:05d}", range(4))),
        (["00012"], clip(4), 10, numbered("{:05d}", range(10, 14))),
        (["8", "11"], clip(4), 8, ["8", "9", "10", "11"]),
        (["12"], clip(4), 9, ["9", "10", "11", "12"]),
        (["2_of_9", "3_of_9"], clip(3), 1, ["1_of_9", "2_of_9", "3_of_9"]),
        (["b", "a"], clip(2), None, ["a", "b"]),
    ],
)
def test_masks_of_other_frames_would_be_called(
    names: list[str], frames: FrameSet, first: int | None, expected: list[str]
) -> None:
    pairing = pair(files(*names), frames, "mask", first)
    assert [pairing.name_of(t) for t in range(frames.count or 0)] == expected
    assert all(pairing.name_of(t) == name for t, name in pairing.names.items())
