"""Lost tracklets that a finder recognises; a slow reference of what it remembers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.inference.propagation.clips import H, W, clip, iou
from tests.small_weights import ship
from vmt.inference import package_detector
from vmt.inference.propagation.finder import (
    MOMENTUM,
    OTHER,
    OTHERS,
    SAME,
    SIMILAR,
    Candidates,
    Identity,
    NetworkFinder,
)
from vmt.inference.propagation.propagator import LEARN_AGAIN, MaskPropagator
from vmt.inference.propagation.view import ViewMaker
from vmt.utils.errors import CheckpointError, ConfigError

SIDE = 44


def random_candidates(rng: np.random.Generator, count: int) -> Candidates:
    """Boxes in a small frame; embeddings near one of three directions."""
    masks = np.zeros((count, 12, 16), bool)
    for mask in masks:
        y, x = rng.integers(0, 8), rng.integers(0, 12)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    toward = np.eye(3, 6)[rng.integers(0, 3, count)] + 0.3 * rng.normal(size=(count, 6))
    return Candidates(masks, F.normalize(torch.tensor(toward, dtype=torch.float32), dim=1))


def pixels(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}


def slow_overlap(a: np.ndarray, b: np.ndarray) -> float:
    return len(pixels(a) & pixels(b)) / max(len(pixels(a) | pixels(b)), 1)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


class Slow:
    """``Identity``, number by number."""

    def __init__(self) -> None:
        self.own: list[float] | None = None
        self.others: list[list[float]] = []

    def learn(self, candidates: Candidates, mask: np.ndarray) -> None:
        best, most = -1, 0.0
        for k, other in enumerate(candidates.masks):
            value = slow_overlap(mask, other)
            if value <= OTHER:
                self.others.append(candidates.embeddings[k].tolist())
            if value > most:
                best, most = k, value
        self.others = self.others[-OTHERS:]
        if most >= SAME:
            new = candidates.embeddings[best].tolist()
            if self.own is not None:
                pairs = zip(self.own, new, strict=True)
                new = [(1 - MOMENTUM) * a + MOMENTUM * b for a, b in pairs]
                length = sum(x * x for x in new) ** 0.5
                new = [x / length for x in new]
            self.own = new

    def find(self, candidates: Candidates) -> int | None:
        if self.own is None:
            return None
        values = [cosine(row.tolist(), self.own) for row in candidates.embeddings]
        if not values or max(values) < SIMILAR:
            return None
        best = values.index(max(values))
        beside = [cosine(o, candidates.embeddings[best].tolist()) for o in self.others]
        return None if beside and max(beside) >= max(values) else best


def test_what_is_remembered_and_recognised() -> None:
    rng = np.random.default_rng(4)
    answers = []
    for _ in range(60):
        fast, slow = Identity(), Slow()
        for _ in range(rng.integers(0, 5)):
            candidates = random_candidates(rng, int(rng.integers(0, 6)))
            mask = candidates.masks[0] if len(candidates.masks) else np.zeros((12, 16), bool)
            fast.learn(candidates, mask)
            slow.learn(candidates, mask)
        asked = random_candidates(rng, int(rng.integers(0, 6)))
        place, mask = slow.find(asked), fast.find(asked)
        assert (mask is None) == (place is None)
        assert mask is None or np.array_equal(mask, asked.masks[place])
        answers.append(place)
    assert 5 < sum(place is not None for place in answers) < 55


def test_a_bounded_number_of_other_things_is_remembered() -> None:
    """The latest ones: an old neighbour stands no longer in the way."""
    identity = Identity()
    mask = np.zeros((2, 4, 4), bool)
    mask[0, :2], mask[1, 2:] = True, True
    own, beside = torch.eye(3)[0], F.normalize(torch.tensor([1.0, 0.4, 0.0]), dim=0)
    identity.learn(Candidates(mask, torch.stack([own, beside])), mask[0])
    asked = Candidates(mask[:1], F.normalize(torch.tensor([[1.0, 0.3, 0.0]]), dim=1))
    assert identity.find(asked) is None
    for _ in range(OTHERS):
        identity.learn(Candidates(mask[1:], torch.eye(3)[2:]), mask[0])
    assert identity.find(asked) is not None


class Known:
    """A finder that knows the squares: an embedding each."""

    def __init__(self, frames: np.ndarray, masks: np.ndarray) -> None:
        self.asked: list[int] = []
        self._frames = frames
        self._masks = masks

    def __call__(self, frame: np.ndarray) -> Candidates:
        t = next(t for t, own in enumerate(self._frames) if np.array_equal(own, frame))
        self.asked.append(t)
        there = [n for n, mask in enumerate(self._masks[:, t]) if mask.any()]
        return Candidates(self._masks[there, t], torch.eye(4)[there])


def twins() -> tuple[np.ndarray, np.ndarray]:
    """A square leaves; when it comes back another one that looks the same is there too."""
    first = [(50, 8 + 16 * t) if t < 12 else None for t in range(14)]
    frames, masks = clip([*first, *[(90, 140)] * 4])
    square = frames[0, 50 : 50 + SIDE, 8 : 8 + SIDE].copy()
    other = np.zeros_like(masks)
    for t in range(14, 18):
        frames[t, 10 : 10 + SIDE, 20 : 20 + SIDE] = square
        other[0, t, 10 : 10 + SIDE, 20 : 20 + SIDE] = True
    frames[:, 0, 0] = np.arange(18)[:, None]  # no two are the same
    return frames, np.concatenate([masks, other])


@pytest.fixture(scope="module")
def views() -> ViewMaker:
    return ViewMaker.from_pretrained("cpu")


def test_the_one_of_two_that_look_the_same(views: ViewMaker) -> None:
    frames, masks = twins()
    finder = Known(frames, masks)
    plain = MaskPropagator(None, views).propagate(frames, {0: masks[:1, 0]})
    done = MaskPropagator(None, views, finder=finder).propagate(frames, {0: masks[:1, 0]})
    lost = [t for t in range(18) if not done.masks[0, t].any()]
    assert {12, 13} <= set(lost) <= set(range(11, 14))
    assert np.array_equal(plain.masks[0, :14], done.masks[0, :14])
    for t in range(14, 18):
        assert iou(done.masks[0, t], masks[0, t]) > 0.85, t
        assert iou(plain.masks[0, t], masks[0, t]) < 0.6, t
    # Once where it learns, and where the tracklet was lost in the frame before.
    assert finder.asked == [0, LEARN_AGAIN, *[t + 1 for t in lost]]


def test_both_ways(views: ViewMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known on the way back is what the given mask shows."""
    monkeypatch.setattr("vmt.inference.propagation.propagator.LEARN_AGAIN", 1000)
    frames, masks = twins()
    frames, masks = frames[::-1].copy(), masks[:, ::-1].copy()
    finder = Known(frames, masks)
    done = MaskPropagator(None, views, finder=finder).propagate(frames, {17: masks[:1, 17]})
    for t in range(4):
        assert iou(done.masks[0, t], masks[0, t]) > 0.85, t


def test_nothing_is_recognised_without_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    assert NetworkFinder.from_package("cpu") is None
    with pytest.raises(CheckpointError, match="not in this package"):
        NetworkFinder.load(None, None, "cpu")
    with pytest.raises(ConfigError, match="quick/vmt_tiny: sees clips"):
        NetworkFinder.load("quick/vmt_tiny", None, "cpu")


def test_the_detector_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, views: ViewMaker
) -> None:
    """Random weights: its objects have masks and embeddings, and do no harm."""
    ship(monkeypatch, tmp_path / "small")
    finder = NetworkFinder.from_package("cpu")
    assert finder is not None
    frames, masks = clip([(20 + 3 * t, 20 + 6 * t) for t in range(12)])
    seen = finder(frames[0])
    assert seen.masks.shape == (3, H, W)
    assert seen.masks.dtype == bool
    assert seen.masks.any((1, 2)).all()
    assert torch.allclose(seen.embeddings.norm(dim=1), torch.ones(3))
    again = finder(frames[0])
    assert torch.equal(seen.embeddings, again.embeddings)
    given = {0: masks[:, 0]}
    plain = MaskPropagator(None, views).propagate(frames, given)
    done = MaskPropagator(None, views, finder=finder).propagate(frames, given)
    assert np.array_equal(plain.masks, done.masks)
