"""Sizes and positions in the conventions of the published networks, by hand."""

from __future__ import annotations

import pytest
import torch

from vmt.ops.frames import fold_frames, frame_chunks, unfold_frames
from vmt.ops.resize import aligned_upsample2, cell_centres_px, nearest, network_size


@pytest.mark.parametrize(
    ("frame", "short", "longest", "expected"),
    [
        ((720, 1280), 360, 0, (360, 640)),
        ((1280, 720), 360, 0, (640, 360)),
        # 360 * 1000 / 750 is 480; 360 * 853 / 480 is 639.75 and is cut
        ((750, 1000), 360, 0, (360, 480)),
        ((480, 853), 360, 0, (360, 639)),
        ((480, 480), 360, 0, (360, 360)),
        # the bound of the long side gives the scale: 500 * 720 / 1280 = 281.25
        ((720, 1280), 360, 500, (281, 500)),
        ((1280, 720), 360, 500, (500, 281)),
        ((720, 1280), 360, 640, (360, 640)),
        # a strip keeps a row
        ((2, 4000), 360, 500, (1, 500)),
    ],
)
def test_size_of_the_networks_input(frame, short, longest, expected):
    assert network_size(*frame, short, longest) == expected


def test_cells_stand_for_the_pixel_in_their_middle():
    centres = cell_centres_px((2, 3), 8, torch.zeros(1))
    assert centres.tolist() == [[[4, 12, 20], [4, 12, 20]], [[4, 4, 4], [12, 12, 12]]]
    assert centres.dtype == torch.float32
    assert cell_centres_px((1, 2), 2, torch.zeros(1), torch.float64)[0].tolist() == [[1, 3]]


def test_nearest_takes_the_floor():
    row = torch.arange(3.0).expand(1, 1, 2, 3)
    assert nearest(row, (2, 7))[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert nearest(row, (2, 3)) is row


def test_aligned_upsampling_keeps_cells_at_odd_places():
    x = torch.tensor([[[[0.0, 2.0, 6.0]]]])
    assert aligned_upsample2(x)[0, 0, 0].tolist() == [0, 0, 1, 2, 4, 6]


def test_frames_of_a_clip_lie_side_by_side():
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    folded = fold_frames(x)
    assert torch.equal(folded, torch.stack([x[b, t] for b in range(2) for t in range(3)]))
    assert torch.equal(unfold_frames(folded, 3), x)


@pytest.mark.parametrize(
    ("frames", "chunk", "expected"),
    [
        (5, 2, [(0, 2), (2, 4), (4, 5)]),
        (4, 2, [(0, 2), (2, 4)]),
        (3, 0, [(0, 3)]),
        (2, 9, [(0, 2)]),
        (0, 2, []),
        (0, 0, []),
    ],
)
def test_chunks(frames, chunk, expected):
    assert [(part.start, part.stop) for part in frame_chunks(frames, chunk)] == expected
