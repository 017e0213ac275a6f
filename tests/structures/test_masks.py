"""Crops, dense masks and run lengths say the same; the dense coder of the codec is the judge."""

import numpy as np
import pytest
import torch

from cocoapi_hq.io import rle
from vmt.structures.masks import MaskCrop, decode_crop, decode_masks, encode_crop, encode_masks


def random_masks(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [tuple(rng.integers(1, 12, 2)) for _ in range(count)]
    densities = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], count)
    return [rng.random(s) < d for s, d in zip(shapes, densities, strict=True)]


def test_crops_code_like_dense_masks() -> None:
    for mask in random_masks(400):
        coded = rle.encode(mask)
        assert encode_crop(MaskCrop(mask), mask.shape) == coded
        crop = decode_crop(coded)
        assert encode_crop(crop, mask.shape) == coded
        x, y, w, h = rle.to_box(coded)
        assert crop.box_xyxy_px() == (x, y, x + w, y + h)
        assert crop.bits.shape == (h, w)
        assert crop.area == rle.area(coded) == mask.sum()


def test_a_crop_sits_where_it_says() -> None:
    dense = np.zeros((20, 30), dtype=np.bool_)
    dense[4:9, 7:12] = np.eye(5, dtype=np.bool_)
    crop = MaskCrop(dense[3:10, 5:14], y=3, x=5)
    assert encode_crop(crop, (20, 30)) == rle.encode(dense)
    assert crop.box_xyxy_px() == (7, 4, 12, 9)


def test_a_crop_must_lie_in_the_frame() -> None:
    with pytest.raises(ValueError, match="leaves a frame of 20x30"):
        encode_crop(MaskCrop(np.ones((5, 5), dtype=np.bool_), y=18, x=0), (20, 30))


def test_tensors_there_and_back() -> None:
    masks = torch.rand(3, 9, 7) > 0.5
    masks[1] = False
    coded = encode_masks(masks)
    assert [m["size"] for m in coded] == [[9, 7]] * 3
    assert torch.equal(decode_masks(coded), masks)
    assert decode_masks([], (4, 5)).shape == (0, 4, 5)


def test_sizes_must_agree() -> None:
    coded = encode_masks(torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="one size"):
        decode_masks(coded, (4, 5))
    with pytest.raises(ValueError, match="none at all"):
        decode_masks([])
