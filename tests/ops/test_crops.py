"""Windows that follow an object: against slices taken by hand."""

from __future__ import annotations

import pytest
import torch

from vmt.ops.crops import DIVISOR, follow


def tube(boxes, size=(120, 160)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (y1, y2, x1, x2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_same_scale_is_a_slice():
    masks = tube([(30, 70, 40, 90), (34, 74, 50, 100)])
    crop = follow(masks, 0.1, 5, 16, 256)
    assert crop.window == crop.size
    assert all(side % DIVISOR == 0 for side in crop.size)
    values = torch.rand(2, 3, 120, 160)
    found = crop.cut(values)
    for t in range(2):
        y, x = int(crop.top[t]), int(crop.left[t])
        h, w = crop.window
        assert y <= masks[t].any(1).nonzero()[0] - 5
        assert x <= masks[t].any(0).nonzero()[0] - 5
        assert torch.equal(found[t], values[t, :, y : y + h, x : x + w])
        place = crop.places()[t]
        assert (place.rows, place.columns) == (slice(y, y + h), slice(x, x + w))


def test_the_window_moves_with_the_object():
    crop = follow(tube([(30, 60, 40, 70), (37, 67, 59, 89)]), 0.1, 5, 16, 256)
    assert int(crop.top[1] - crop.top[0]) == 7
    assert int(crop.left[1] - crop.left[0]) == 19


def test_beyond_the_frame():
    masks = tube([(0, 20, 150, 160)])
    crop = follow(masks, 0.1, 12, 16, 256)
    values = torch.ones(1, 1, 120, 160)
    beyond = torch.tensor([7.0])[:, None, None]
    found = crop.cut(values, beyond)[0, 0]
    place = crop.places()[0]
    assert place.rows.start == 0
    assert place.columns.stop == 160
    assert (found[place.own_rows, place.own_columns] == 1).all()
    seen = (place.rows.stop - place.rows.start) * (place.columns.stop - place.columns.start)
    assert (found == 7).sum() == found.numel() - seen


@pytest.mark.parametrize(("side", "limits"), [(100, (16, 64)), (20, (96, 256))])
def test_large_and_small_objects_are_resized_and_come_back_in_place(side, limits):
    size = (160, 200)
    yy, xx = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    disc = ((yy - 70.5) ** 2 + (xx - 90.5) ** 2).sqrt()[None] < side / 2
    crop = follow(disc, 0.1, 8, *limits)
    assert crop.window != crop.size
    assert max(crop.size) <= limits[1]
    back = crop.restore(crop.cut(disc[:, None])[:, 0]) > 0.5
    place = crop.places()[0]
    expected = disc[0, place.rows, place.columns]
    found = back[0, place.own_rows, place.own_columns]
    assert (expected & found).sum() / (expected | found).sum() > 0.97
    shift = found.nonzero().float().mean(0) - expected.nonzero().float().mean(0)
    assert shift.abs().max() < 0.2


def test_an_empty_frame_is_refused():
    with pytest.raises(ValueError, match="shows nothing"):
        follow(tube([(3, 9, 3, 9), (0, 0, 0, 0)]), 0.1, 8, 16, 64)
