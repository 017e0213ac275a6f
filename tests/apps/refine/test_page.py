import math
import re

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, shift
from skimage.segmentation import find_boundaries

from cocoapi_hq.io import rle
from vmt.apps.refine.compare import example_pictures, measure
from vmt.apps.refine.page import build_page
from vmt.apps.refine.summary import Example, Tally
from vmt.data.mask_files.base import Change

SHAPE = (120, 160)


def _disk(y=60.0, x=70.0, radius=30.0):
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def _codes(masks):
    return [None if mask is None else rle.encode(mask) for mask in masks]


def test_shift_is_the_distance_that_contours_moved():
    new = [_disk(), None, _disk(x=90)]
    old = [None if m is None else binary_dilation(m, iterations=1) for m in new]
    found = measure(_codes(old), _codes(new))
    contour = sum(find_boundaries(m, connectivity=1, mode="inner").sum() for m in new[::2])
    changed = sum((a & ~b).sum() for a, b in zip(old[::2], new[::2], strict=True))
    assert found.shift_px == pytest.approx(changed / contour)
    assert 0 < found.boundary_iou < 1
    assert math.isnan(found.steadiness[0])


def test_what_only_moves_is_steady_and_what_changes_shape_is_not():
    moving = [_disk(x=50 + 7 * t, y=50 + t) for t in range(5)]
    found = measure(_codes(moving), _codes(moving))
    assert found.boundary_iou == 1
    assert found.shift_px == 0
    assert found.steadiness == (1, 1)
    assert found.flicker == (0, 0)
    jumpy = [_disk(radius=30 + 3 * (t in (2, 3))) for t in range(6)]
    found = measure(_codes(jumpy), _codes(moving + moving[-1:]))
    assert found.steadiness[0] < 0.9 < found.steadiness[1]
    assert found.flicker[0] > found.flicker[1]


def test_a_mask_that_leaves_the_frame_is_cut_there():
    leaving = [_disk(x=70), shift(_disk(x=70).astype(float), (0, 80), order=0) > 0.5]
    found = measure(_codes(leaving), _codes(leaving))
    assert 0 < found.steadiness[0] < 1


@pytest.mark.parametrize("mask", [_disk(2, 2, 1), _disk(), np.ones(SHAPE, bool)])
def test_pictures_fit(mask):
    pictures = example_pictures(np.zeros((*SHAPE, 3), np.uint8), mask, mask)
    assert max(pictures.width, pictures.height) <= 560
    for jpeg in (pictures.before, pictures.after, pictures.change):
        assert jpeg[:2] == b"\xff\xd8"


def test_the_page_needs_nothing_from_outside_and_escapes_names():
    frame = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    change = Change(3, "00003", 0, "1", 1000, 123, 0.87, False, rle.encode(_disk()))
    example = Example(Tally("a<b>", "dog 1"), change)
    tally = Tally("v<1>", "dog 1", ("v", 0), 30, 1000, 250, 27.0, ["00001", "00002"])
    other = measure(_codes([_disk()]), _codes([_disk()]))
    rows = [(tally, None), (Tally("v2", "cat", ("v2", 0), 3, 1000, 100, 2.4), other)]
    figures = [(example, example_pictures(frame, _disk(radius=34), _disk()))]
    page = build_page("Refined", [("2", "masks")], rows, 4, figures, [("Masks", "a&b")])
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?:|<script|@import|url\(", page)
    assert "v&lt;1&gt;" in page
    assert "a&amp;b" in page
    assert "<b>" in page
    assert "2 (00001, 00002)" in page
    assert "4 more tracklets" in page
    assert "nan" not in page
