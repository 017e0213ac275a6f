from __future__ import annotations

import json

import numpy as np
import pytest

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.runs import open_masks
from cocoapi_hq.tubes.boundary import boundary_area, boundary_distance, boundary_region
from tests.cocoapi_hq import reference_tube_ap as reference
from tests.cocoapi_hq.tube_cases import GOLDEN, blob


@pytest.mark.parametrize(
    ("size", "distance"),
    [((75, 100), 2), ((135, 180), 4), ((225, 300), 8), ((360, 640), 15), ((480, 854), 20),
     ((720, 1280), 29), ((1080, 1920), 44), ((1, 1), 1), ((20, 15), 1)],
)  # fmt: skip
def test_distance_rounds_half_to_even(size: tuple[int, int], distance: int) -> None:
    assert boundary_distance(*size) == distance


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_distance_refuses_ratios(ratio: float) -> None:
    with pytest.raises(ScoringError, match="ratio"):
        boundary_distance(10, 10, ratio)


def test_square_by_hand(implementation: str) -> None:
    mask = np.zeros((50, 60), dtype=bool)  # 78.1 * 0.02 = 1.56 -> 2
    mask[10:20, 5:25] = True
    inner = mask.copy()
    inner[12:18, 7:23] = False
    assert np.array_equal(rle.decode(boundary_region(rle.encode(mask))), inner)
    assert boundary_area(rle.encode(mask)) == 10 * 20 - 6 * 16


def test_frame_border_is_boundary(implementation: str) -> None:
    full = rle.encode(np.ones((50, 60), dtype=bool))
    assert boundary_area(full) == 50 * 60 - 46 * 56


def test_random_masks_match_full_frame_erosion(implementation: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(120):
        h, w = int(rng.integers(1, 90)), int(rng.integers(1, 90))
        ratio = float(rng.choice([0.02, 0.05, 0.1]))
        mask = blob(rng, h, w)
        expected = reference.boundary(mask, ratio)
        assert np.array_equal(rle.decode(boundary_region(rle.encode(mask), ratio)), expected)
        assert boundary_area(rle.encode(mask), ratio) == expected.sum()


def test_sums_of_both_implementations_match_dense(implementation: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        h, w = int(rng.integers(2, 70)), int(rng.integers(2, 70))
        dense = [blob(rng, h, w) for _ in range(6)]
        coded = [rle.encode(m) for m in dense]
        masks = open_masks(
            [m["counts"] for m in coded], np.full(6, h, np.int32), np.full(6, w, np.int32)
        )
        d = boundary_distance(h, w, 0.05)
        for distances, make in ((None, lambda m: m), (d, lambda m: reference.boundary(m, 0.05))):
            inter, union, gone = masks.tube_sums(
                np.array([0]),
                np.array([3]),
                np.array([3], np.int32),
                None if distances is None else np.full(6, distances, np.int32),
            )
            pairs = [(make(dense[t]), make(dense[t + 3])) for t in range(3)]
            assert inter[0] == sum((a & b).sum() for a, b in pairs)
            assert union[0] == sum((a | b).sum() for a, b in pairs)
            assert gone[0] == 0
        assert masks.areas.tolist() == [m.sum() for m in dense]
        for box, m in zip(masks.boxes.tolist(), dense, strict=True):
            x, y = np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))
            assert box == ([x[0], y[0], x[-1] + 1, y[-1] + 1] if m.any() else [0, 0, 0, 0])


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden data are not beside the repository")
def test_golden_units(implementation: str) -> None:
    for unit in json.loads((GOLDEN / "boundary" / "units.json").read_text()):
        region = boundary_region(unit["mask"], unit["dilation_ratio"])
        assert region == {k: unit["boundary"][k] for k in ("size", "counts")}, unit["name"]
        assert boundary_area(unit["mask"], unit["dilation_ratio"]) == unit["boundary_area"]
