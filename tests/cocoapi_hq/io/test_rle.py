from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from tests.cocoapi_hq.tube_cases import blob


def test_round_trip_and_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = blob(rng, int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        coded = rle.encode(mask)
        assert np.array_equal(rle.decode(coded), mask)
        assert rle.area(coded) == mask.sum() == coco.area(coded)
        assert list(rle.to_box(coded)) == coco.toBbox(coded).tolist()


def test_counts_agree_with_pycocotools(implementation: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        mask = blob(rng, int(rng.integers(1, 200)), int(rng.integers(1, 90)))
        coded = rle.encode(mask)
        runs = rle.counts_to_runs(coded["counts"])
        assert runs.sum() == mask.size
        assert rle.from_counts(runs.tolist(), *mask.shape) == coded


def test_empty_and_full_masks() -> None:
    for value in (0, 1):
        mask = np.full((7, 5), value, dtype=bool)
        assert rle.area(rle.encode(mask)) == 35 * value
        assert np.array_equal(rle.decode(rle.encode(mask)), mask)


def test_zero_length_runs_inside_are_legal() -> None:
    coded = rle.from_counts([3, 2, 0, 4, 1], 5, 2)
    assert rle.area(coded) == 6
    assert rle.decode(coded).T.ravel().tolist() == [False] * 3 + [True] * 6 + [False]


def test_union_and_intersection() -> None:
    rng = np.random.default_rng(2)
    a, b = blob(rng, 30, 20), blob(rng, 30, 20)
    assert np.array_equal(rle.decode(rle.union([rle.encode(a), rle.encode(b)])), a | b)
    assert np.array_equal(rle.decode(rle.intersection([rle.encode(a), rle.encode(b)])), a & b)
    with pytest.raises(ScoringError, match="sizes"):
        rle.union([rle.encode(a), rle.encode(a.T)])


def test_polygons_as_pycocotools_draws_them() -> None:
    rings = [[2.0, 2.0, 20.0, 3.0, 11.5, 17.0], [30.0, 5.0, 38.0, 5.0, 38.0, 12.0, 30.0, 12.0]]
    expected = coco.decode(coco.merge(coco.frPyObjects(rings, 25, 45)))
    assert np.array_equal(rle.decode(rle.from_polygons(rings, 25, 45)), expected)


SIZE = [4, 5]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (3, "no mask"),
        ("text", "no mask"),
        ([[1, 2, 3, 4, 5, 6]], "polygon"),
        ({"counts": "d0"}, "'size'"),
        ({"size": SIZE}, "'counts'"),
        ({"size": [4], "counts": "d0"}, "two integers"),
        ({"size": [4, True], "counts": "d0"}, "positive integers"),
        ({"size": [4.0, 5], "counts": "d0"}, "positive integers"),
        ({"size": [0, 5], "counts": "0"}, "positive integers"),
        ({"size": [-4, -5], "counts": "d0"}, "positive integers"),
        ({"size": [2**40, 2**40], "counts": "d0"}, "more than"),
        ({"size": SIZE, "counts": ""}, "empty"),
        ({"size": SIZE, "counts": None}, "text or a list"),
        ({"size": SIZE, "counts": 7}, "text or a list"),
        ({"size": SIZE, "counts": "d"}, "middle of a number"),
        ({"size": SIZE, "counts": "d0\n"}, "end with white space; strip it"),
        ({"size": SIZE, "counts": "b'd0'"}, r"are bytes that Python.s str\(\) turned into text"),
        ({"size": SIZE, "counts": "d0é"}, "outside the code"),
        ({"size": SIZE, "counts": "d0中"}, "outside the code"),
        ({"size": SIZE, "counts": "e0"}, "cover 21 pixels"),
        ({"size": SIZE, "counts": "c0"}, "cover 19 pixels"),
        ({"size": SIZE, "counts": "Ad0"}, "negative run|cover"),
        ({"size": SIZE, "counts": "o" * 9 + "0"}, "beyond 32 bits"),
        ({"size": SIZE, "counts": [20, 1]}, "cover 21 pixels"),
        ({"size": SIZE, "counts": []}, "cover 0 pixels"),
        ({"size": SIZE, "counts": [-1, 21]}, "outside"),
        ({"size": SIZE, "counts": [2**70]}, "outside"),
        ({"size": SIZE, "counts": [20.0]}, "not an integer"),
        ({"size": SIZE, "counts": [True, 19]}, "not an integer"),
        ({"size": SIZE, "counts": ["20"]}, "not an integer"),
        ({"size": SIZE, "counts": [[20]]}, "not an integer"),
    ],
)
def test_refused_masks_are_named(mask: object, words: str) -> None:
    with pytest.raises(ScoringError, match=words) as caught:
        rle.validate(mask, "results[3].segmentations[7]")
    assert "results[3].segmentations[7]" in str(caught.value)


@pytest.mark.parametrize(
    "rings",
    [[[1, 2, 3, 4, 5]], [3], [], [[0, 0, 1, 1, float("nan"), 2]], [["a"] * 6],
     [[0, 0, 1, 1, 1e9, 2]], [[0, 0, 1, 1, True, 2]]],
)  # fmt: skip
def test_refused_polygons(rings: object) -> None:
    with pytest.raises(ScoringError):
        rle.validate(rings, "mask", (10, 10))


def test_bytes_are_accepted() -> None:
    coded = rle.encode(np.eye(6, dtype=bool))
    assert rle.validate({"size": [6, 6], "counts": coded["counts"].encode()}) == coded


def test_encode_refuses_other_shapes() -> None:
    for shape in ((3,), (2, 3, 4), (0, 4)):
        with pytest.raises(ScoringError):
            rle.encode(np.zeros(shape))


def test_rings_that_enclose_nothing_add_nothing() -> None:
    square = [1, 1, 4, 1, 4, 3, 1, 3]  # 3 x 2 pixels
    line = [0, 0, 5, 5, 2, 2, 9, 9]
    rings = [[2, 2], square, [], [5, 5, 9, 9], line, [6, 6, 6, 6, 6, 6]]
    assert rle.split_rings(rings) == ([[float(v) for v in square]], [0, 2, 3, 4, 5])
    drawn = rle.decode(rle.from_polygons(rings, 10, 10))
    expected = np.zeros((10, 10), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(drawn, expected)
    assert rle.area(rle.from_polygons([line], 10, 10)) == 0


def test_the_numbers_of_one_ring() -> None:
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    assert rle.validate(square, "here", (10, 10)) == rle.validate([square], "here", (10, 10))
