"""Masks that their neighbours overrule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.inference.test_mask_refiner import MadeUp, square, video
from vmt.inference.flow_votes import steady_mask
from vmt.inference.mask_refiner import MaskRefiner

H, W = 96, 128


def moving_square(frames: int = 5, step: int = 3):
    """A textured square over a textured ground, and its exact masks."""
    rng = np.random.default_rng(0)
    ground = rng.integers(20, 110, (H // 4, W // 4, 3)).repeat(4, 0).repeat(4, 1)
    thing = rng.integers(140, 250, (10, 10, 3)).repeat(4, 0).repeat(4, 1)
    pictures = np.stack([ground] * frames).astype(np.uint8)
    masks = np.zeros((frames, H, W), bool)
    for t in range(frames):
        place = (slice(30, 70), slice(30 + step * t, 70 + step * t))
        pictures[t][place], masks[t][place] = thing, True
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.from_numpy(masks)


def wrong(a: np.ndarray, b: torch.Tensor) -> int:
    return int((a != b.numpy()).sum())


def test_a_piece_that_one_mask_misses_comes_back_and_one_too_much_goes():
    frames, masks = moving_square()
    for value, part in ((False, np.s_[30:45, 36:60]), (True, np.s_[72:84, 40:60])):
        given = masks.clone()
        given[2][part] = value
        before = wrong(given[2].numpy(), masks[2])
        assert wrong(steady_mask(frames, given, 2), masks[2]) < 0.25 * before


def test_masks_that_agree_stay():
    frames, masks = moving_square()
    assert wrong(steady_mask(frames, masks, 2), masks[2]) < 0.01 * masks[2].sum()


#: Votes of four neighbours, all of full weight: more than 65 % for it, or more than 65 % against,
#: overrule a mask. Neighbours that have a piece -> whether it is there in the end where the mask
#: has it, and where it lacks it.
VERDICTS = {
    0: (False, False),
    1: (False, False),
    2: (True, False),
    3: (True, True),
    4: (True, True),
}


@pytest.mark.parametrize("holders", VERDICTS)
def test_votes_by_hand(holders):
    """A still video, so that flow is nothing and only numbers of neighbours count."""
    frames, masks = moving_square(5, step=0)
    pieces = {True: np.s_[34:46, 34:46], False: np.s_[54:66, 54:66]}
    inner = {own: (slice(r.start + 3, r.stop - 3),) * 2 for own, (r, _) in pieces.items()}
    given = masks.clone()
    others = [t for t in range(5) if t != 2]
    for own, piece in pieces.items():
        given[2][piece] = own
        for place, t in enumerate(others):
            given[t][piece] = place < holders
    found = steady_mask(frames, given, 2)
    for own, verdict in zip((True, False), VERDICTS[holders], strict=True):
        assert (found[inner[own]] == verdict).all()
    # Nothing else changes.
    untouched = masks[2].numpy().copy()
    for r, c in pieces.values():
        untouched[r.start - 3 : r.stop + 3, c.start - 3 : c.stop + 3] = False
        found[r.start - 3 : r.stop + 3, c.start - 3 : c.stop + 3] = False
    assert (found == untouched).all()


def test_frames_that_do_not_fit_say_nothing():
    """Other pictures: flow leads nowhere, so that nobody may overrule the mask."""
    frames, masks = moving_square()
    given = masks.clone()
    given[2, 30:45, 36:60] = False
    noise = torch.randint(0, 256, frames.shape, generator=torch.Generator().manual_seed(0))
    frames = torch.where((torch.arange(5) == 2)[:, None, None, None], frames, noise.to(torch.uint8))
    assert wrong(steady_mask(frames, given, 2), given[2]) == 0


def test_absent_objects_stay_absent_and_have_no_vote():
    frames, masks = moving_square()
    given = masks.clone()
    given[2] = False
    assert not steady_mask(frames, given, 2).any()
    given[[0, 1, 3, 4]] = False
    given[2] = masks[2]
    assert wrong(steady_mask(frames, given, 2), masks[2]) == 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("reach", [1, 3])
def test_every_frame_comes_once_with_its_neighbours(monkeypatch, length, reach):
    seen = []

    def watched(frames, masks, at):
        seen.append(([int(frame[0, 0, 0]) for frame in frames], at))
        return masks[at].numpy()

    monkeypatch.setattr("vmt.inference.mask_refiner.steady_mask", watched)
    frames, masks = video(length)
    done = MaskRefiner(MadeUp(lambda t, _: square(6, 15)), reach).refine(frames, masks)
    assert done.masks.shape == masks.shape
    assert [near[at] for near, at in seen] == list(range(length))
    for t, (near, _) in enumerate(seen):
        assert near == list(range(max(0, t - reach), min(length, t + reach + 1)))


def test_masks_are_refined_then_asked_about_then_refined_again(monkeypatch):
    asked = []

    def add_a_corner(frames, masks, at):
        asked.extend(masks.numpy())
        steadied = masks[at].numpy().copy()
        steadied[4, 4] = True
        return steadied

    monkeypatch.setattr("vmt.inference.mask_refiner.steady_mask", add_a_corner)
    frames, masks = video(4)
    looked_at = torch.ones(masks.shape[-2:], dtype=torch.bool)
    looked_at[4, 4] = False
    network = MadeUp(lambda t, _: square(6, 15), looked_at)
    done = MaskRefiner(network, steady=1).refine(frames, masks)
    once = square(6, 15).numpy() > 0.5
    assert all((mask == once).all() for mask in asked)
    assert sorted(network.calls) == [[t] for t in range(4) for _ in range(2)]
    assert done.masks[0, :, 4, 4].all()
    once[4, 4] = True
    assert (done.masks[0] == once).all()


def test_frames_to_which_flow_does_not_lead_back_say_nothing():
    """Ground that a neighbour hides looks alike, but nothing leads there and back."""
    frames, masks = moving_square(3, step=0)
    frames = frames.clone()
    generator = torch.Generator().manual_seed(0)
    # One grey level everywhere: pictures always fit, and flow is whatever it is made to be.
    frames[:] = 128
    given = masks.clone()
    given[1, 30:45, 36:60] = False

    class Flow:
        def calc(self, a, b, _):
            return torch.randn(*a.shape, 2, generator=generator).numpy() * 6

    found = {}
    for name, flow in (("random", Flow()), ("none", None)):
        with pytest.MonkeyPatch.context() as patch:
            if flow is not None:
                patch.setattr("cv2.DISOpticalFlow.create", lambda *_, flow=flow: flow)
            found[name] = wrong(steady_mask(frames, given, 1), given[1])
    assert found["none"] > 300, "still pictures: the neighbours agree against the gap"
    assert found["random"] < 0.2 * found["none"]


def test_what_is_not_refined_is_steady_and_guards_ask_the_mask_as_given(monkeypatch):
    """A network that is never sure leaves the steady mask; one that is too far off is undone."""
    wide = np.zeros((20, 30), bool)
    wide[5:15, 5:17] = True
    monkeypatch.setattr("vmt.inference.mask_refiner.steady_mask", lambda f, m, at: wide)
    frames, masks = video(3)
    unsure = MaskRefiner(MadeUp(lambda t, _: square(6, 15, inside=0.6)), steady=1)
    done = unsure.refine(frames, masks)
    assert (done.masks == wide).all()
    assert (done.changed_px == 20).all()
    far = MaskRefiner(MadeUp(lambda t, _: square(0, 2)), steady=1).refine(frames, masks)
    assert far.rejected.all()
    assert (far.masks == masks).all()


def test_messages():
    with pytest.raises(ValueError, match="steady must be"):
        MaskRefiner(MadeUp(lambda t, _: square(6, 15)), steady=-1)
