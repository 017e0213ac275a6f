import cv2
import numpy as np
import pytest
from skimage.measure import label

from cocoapi_hq.io import rle
from vmt.data.mask_files.rings import rings_of


def _draw(rings, shape):
    """COCO's rule, by which polygons of annotation files are read."""
    return rle.decode(rle.from_polygons([np.ravel(ring).tolist() for ring in rings], *shape))


def _blobs(seed, shape=(50, 70)):
    coarse = np.random.default_rng(seed).random((8, 10)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC) > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_without_tolerance_polygons_are_exact(seed):
    noise = np.random.default_rng(seed).random((21, 17)) > 0.5
    for mask in (noise, _blobs(seed)):
        rings = rings_of(rle.encode(mask), 0.0)
        assert (_draw(rings, mask.shape) == mask).all()
        assert len(rings) == label(mask, connectivity=1).max()


@pytest.mark.parametrize("seed", range(6))
def test_with_tolerance_they_are_close_and_have_fewer_points(seed):
    mask = _blobs(seed)
    rings = rings_of(rle.encode(mask))
    drawn = _draw(rings, mask.shape)
    assert (drawn & mask).sum() / (drawn | mask).sum() >= 0.97
    assert sum(map(len, rings)) < 0.8 * sum(map(len, rings_of(rle.encode(mask), 0.0)))
    assert len(rings) == label(mask, connectivity=1).max()


def test_holes_are_joined_to_the_ring_around_them():
    mask = np.zeros((40, 40), bool)
    mask[2:38, 2:38] = True
    mask[5:20, 5:35] = False
    mask[8:16, 10:20] = True
    mask[10:13, 13:16] = False  # two rings are around this one
    mask[25:30, 25:30] = False
    rings = rings_of(rle.encode(mask))
    assert len(rings) == 2
    assert (_draw(rings, mask.shape) == mask).all()


def test_one_pixel_and_none():
    mask = np.zeros((5, 6), bool)
    assert rings_of(rle.encode(mask)) == []
    mask[3, 4] = True
    assert sorted(map(tuple, rings_of(rle.encode(mask))[0])) == [(4, 3), (4, 4), (5, 3), (5, 4)]


def test_the_largest_piece_comes_first():
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = mask[2:4, 2:4] = mask[6:19, 5:18] = mask[2:5, 10:14] = True
    areas = [_draw([ring], mask.shape).sum() for ring in rings_of(rle.encode(mask))]
    assert areas == [169, 12, 4, 1]
