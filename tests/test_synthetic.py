"""Videos of shapes that hide one another."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.synthetic import hiding_shapes, write_moving_shapes


@pytest.mark.parametrize("seed", range(4))
def test_a_shape_vanishes_and_comes_back(seed: int) -> None:
    video = hiding_shapes(20, (96, 160), seed)
    assert (video.masks.sum(0) <= 1).all()
    longest = []
    for mask in video.masks:
        seen = mask.any(axis=(1, 2))
        inner = "".join("01"[int(x)] for x in seen).strip("0")
        longest.append(max(map(len, inner.split("1"))))
    assert longest == list(video.hidden)
    assert 1 <= max(longest) <= 8
    assert video.hidden[-1] == 0  # the large one in front
    areas = video.masks.sum(axis=(2, 3)).max(1)
    assert areas.argmax() == len(areas) - 1
    again = hiding_shapes(20, (96, 160), seed)
    assert np.array_equal(video.frames, again.frames)


def test_hidden_shapes_are_severely_occluded(tmp_path) -> None:
    path = write_moving_shapes(tmp_path, 1, 20, (96, 160), 0, zoom=2.0, draw=hiding_shapes)
    truth, video = json.loads(path.read_text()), hiding_shapes(20, (96, 160), 0)
    for row, hidden in zip(truth["annotations"], video.hidden, strict=True):
        word = "severe_occlusion" if hidden else "no_occlusion"
        assert row["occlusion"] == [word if mask else None for mask in row["segmentations"]]
