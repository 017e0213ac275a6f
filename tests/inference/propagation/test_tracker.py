"""Pieces of a step: who gets a pixel, specks, and models of appearance."""

from __future__ import annotations

import numpy as np
import torch

from tests.inference.propagation.clips import texture
from vmt.inference.propagation.appearance import Classifier, Colours
from vmt.inference.propagation.tracker import FAMILIAR, Guess, Tracker, apart, without_specks
from vmt.inference.propagation.view import View


def test_a_pixel_belongs_to_the_likelier_tracklet() -> None:
    a, b = np.float32([[0.9, 0.6, 0.4, 0.2]]), np.float32([[0.1, 0.8, 0.45, 0.6]])
    assert apart([a, b]).astype(int).tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 1]]]


def test_specks_go_and_pieces_stay() -> None:
    probability = np.zeros((20, 40), np.float32)
    probability[:, :20] = 0.9
    probability[3:9, 24:30] = 0.8  # 36 pixels beside 400
    probability[12:15, 34:38] = 0.7  # 12
    kept = without_specks(probability)
    assert (kept[:, :30] == probability[:, :30]).all()
    assert not kept[:, 30:].any()
    assert not without_specks(np.zeros((4, 4), np.float32)).any()


def test_the_classifier_tells_cells_apart_and_remembers_what_was_given() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(3, 8, generator=generator)
    kinds /= kinds.norm(dim=1, keepdim=True)

    def cells(of: list[int]) -> torch.Tensor:
        return kinds[of].T + 0.05 * torch.randn(8, len(of), generator=generator)

    classifier = Classifier()
    share = torch.tensor([1.0] * 5 + [0.0] * 45)
    classifier.learn(cells([0] * 5 + [1] * 45), share, torch.ones(50), given=True)
    for _ in range(20):  # the ground changes
        classifier.learn(cells([0] * 5 + [2] * 45), share, torch.ones(50), given=False)
    said = classifier.read(cells([0, 1, 2]))
    assert said[0] > 0.5
    assert (said[1:] < -0.5).all()


def test_colours_are_the_objects_or_those_around_it() -> None:
    red, blue = texture(0, 40, 40, (200, 60, 60)), texture(1, 40, 40, (60, 60, 200))
    frame = np.concatenate([red, blue], 1)
    share = np.zeros((40, 80), np.float32)
    share[:, :40] = 1
    colours = Colours()
    whole = slice(0, 40), slice(0, 80)
    colours.learn(frame, share, whole, given=True)
    said = colours.read(frame)
    assert (said[:, :40] > 0).mean() > 0.95
    assert (said[:, 40:] < 0).mean() > 0.95
    # Outside of the window nothing counts.
    other = Colours()
    other.learn(frame, share, (slice(0, 40), slice(0, 40)), given=True)
    assert (other.read(frame)[:, 40:] > -1).all()


def test_what_memory_does_not_know_is_lost_until_it_does() -> None:
    view = View(texture(0, 48, 64, (90, 90, 90)), lambda frame: torch.full((2, 6, 8), 0.5**0.5))
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:40] = True
    share, none = mask.astype(np.float32), np.zeros((48, 64), np.float32)
    tracker = Tracker()
    tracker.start(view, mask)
    found, sure = tracker.settle(view, Guess(share, share, share), mask)
    assert (found == mask).all()
    assert sure == 1
    found, sure = tracker.settle(view, Guess(share, share, none), mask)  # flow alone
    assert not found.any()
    assert sure == 1 - FAMILIAR
    found, sure = tracker.settle(view, Guess(share, share, none), mask)  # flow has no say now
    assert not found.any()
    assert sure == 0
    found, sure = tracker.settle(view, Guess(share, none, share), mask)
    assert (found == mask).all()
    assert sure == 1
