"""What the mask refiner hears of neighbouring frames while a video streams through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.inference.test_mask_refiner import H, MadeUp, W, square, video
from vmt.inference.mask_refiner import MaskRefiner
from vmt.ops.flow_votes import clip_votes


class Listening(MadeUp):
    """Keeps what it is told."""

    def __init__(self, reach):
        super().__init__(lambda t, _: square(6, 15))
        self.votes_reach = reach
        self.told = []

    def refine_tubes(self, frames, coarse, votes=None):
        self.told.append(votes)
        return super().refine_tubes(frames, coarse)


def textured(length):
    """A video in which a square moves by a pixel per frame; each mask lacks another corner."""
    frames, masks = video(length, tracklets=2)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (H, W + length, 3), np.uint8)
    for t in range(length):
        frames[t, 1:] = picture[1:, t : t + W]
        masks[0, t, 5:10, 5 : 5 + t % 4] = False
    masks[1, length // 2] = False
    return frames, masks


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("reach", [1, 2])
def test_a_stream_says_what_a_clip_in_memory_says(length, reach):
    frames, masks = textured(length)
    network = Listening(reach)
    MaskRefiner(network).refine(frames, masks)
    expected = clip_votes(list(frames), masks, range(length), reach)
    assert len(network.told) == length
    for t, said in enumerate(network.told):
        assert torch.equal(said[:, 0], torch.from_numpy(expected[:, t]))
    assert length == 1 or expected[0].any()


def test_windows_are_told_frame_by_frame():
    frames, masks = textured(5)
    network = Listening(2)
    MaskRefiner(network).refine(frames, masks, window=3)
    expected = torch.from_numpy(clip_votes(list(frames), masks, range(5), 2))
    assert torch.equal(network.told[0], expected[:, :3])
    assert torch.equal(network.told[1], expected[:, 2:])


def test_a_network_that_does_not_ask_is_told_nothing():
    network = Listening(0)
    MaskRefiner(network).refine(*textured(3))
    assert network.told == [None] * 3


def test_no_more_frames_wait_than_are_asked():
    read = 0

    def source():
        nonlocal read
        for frame in textured(20)[0]:
            read += 1
            yield frame

    _, masks = textured(20)
    stream = MaskRefiner(Listening(2)).stream(source(), (masks[:, t] for t in range(20)))
    for done, _ in enumerate(stream, start=1):
        assert read <= done + 4
    assert done == 20
