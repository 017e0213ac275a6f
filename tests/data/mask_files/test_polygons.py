import json

import numpy as np
import pytest

from vmt.data.mask_files.folders import NewMask
from vmt.data.mask_files.polygons import PolygonCodec, make_polygon_codec
from vmt.utils.errors import AnnotationError

SIZE = (20, 30)


def _box(x, y, w, h):
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def _write(path, *shapes, **more):
    path.write_text(json.dumps({"shapes": list(shapes)} | more))
    return path


def test_who_is_one_object(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "dog", "points": _box(1, 1, 5, 4)},
        {"label": "dog", "points": _box(10, 1, 5, 4)},
        {"label": "cat", "group_id": 3, "points": _box(1, 10, 5, 4)},
        {"label": "cat", "group_id": 3, "points": _box(10, 10, 5, 4)},
        {"label": "line", "shape_type": "linestrip", "points": [[0, 0], [5, 5]]},
    )
    codec = make_polygon_codec((path,), SIZE)
    assert codec.note == "1 shapes that are no polygons are left alone."
    keys = codec.objects(path, SIZE)
    assert keys == ["dog", "dog #2", "cat (group 3)"]
    masks = codec.masks(path, keys, SIZE)
    assert masks[0].sum() == 20
    assert masks[0][1:5, 1:6].all()
    assert masks[2].sum() == 40


def test_what_is_not_changed_stays(tmp_path):
    other = {"label": "cat", "points": _box(1.5, 10, 5, 4), "flags": {"x": True}}
    path = _write(
        tmp_path / "a.json",
        {"label": "dog", "points": _box(1, 1, 8, 8), "flags": {"y": 1}, "group_id": None},
        other,
        imageData="abc",
    )
    mask = np.zeros(SIZE, bool)
    mask[2:4, 2:4] = mask[6:9, 6:9] = True
    content = PolygonCodec().rewrite(path, {"dog": NewMask(mask, 0.9), "cat": NewMask(None, 0.9)})
    after = json.loads(content)
    assert after["imageData"] == "abc"
    assert after["shapes"][-1] == other
    first, second = after["shapes"][:2]
    # Two pieces of one object are one group.
    assert first["group_id"] == second["group_id"] == 1
    assert first["flags"] == {"y": 1}
    again = tmp_path / "b.json"
    again.write_bytes(content)
    (found,) = PolygonCodec().masks(again, ["dog"], SIZE)
    assert (found == mask).all()


def test_an_object_in_pieces_stays_the_one_of_other_frames(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "dog", "points": _box(1, 1, 8, 8)},
        {"label": "dog", "points": _box(20, 1, 8, 8)},
    )
    pieces = np.zeros(SIZE, bool)
    pieces[2:4, 2:4] = pieces[6:9, 6:9] = True
    whole = np.zeros(SIZE, bool)
    whole[2:9, 2:9] = True
    for mask in (pieces, pieces, whole):  # read what was written, and write it again
        new = {"dog": NewMask(mask, 0.9), "dog #2": NewMask(None, 0.9)}
        path.write_bytes(PolygonCodec().rewrite(path, new))
        assert PolygonCodec().objects(path, SIZE) == ["dog", "dog #2"]
        first, second = PolygonCodec().masks(path, ["dog", "dog #2"], SIZE)
        assert (first == mask).all()
        assert second[1:9, 20:28].all()
        assert second.sum() == 64


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"label": "a", "points": _box(40, 2, 5, 5)}, r"\(a\) lies outside the frame of 30x20"),
        ({"label": "a", "points": [[1, 1], [2, 2]]}, "at least three"),
        ({"label": "a", "points": [1, 2, 3]}, "at least three"),
        ({"label": "a", "points": [[1, 1], [2, None], [3, 3]]}, "no coordinate"),
        ({"label": "a"}, r"shapes\[0\] is"),
    ],
)
def test_bad_polygons(tmp_path, shape, said):
    path = _write(tmp_path / "a.json", shape)
    with pytest.raises(AnnotationError, match=said):
        PolygonCodec().objects(path, SIZE)


def test_partly_outside_is_cut_and_thinner_than_a_pixel_is_left_alone(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "cut", "points": _box(25, 15, 50, 50)},
        {"label": "thin", "points": _box(5.1, 5.1, 0.1, 0.1)},
    )
    assert PolygonCodec().objects(path, SIZE) == ["cut"]
    assert PolygonCodec().masks(path, ["cut"], SIZE)[0].sum() == 25


def test_drawn_on_another_size(tmp_path):
    shape = {"label": "a", "points": _box(1, 1, 5, 5)}
    path = _write(tmp_path / "a.json", shape, imageHeight=40, imageWidth=60)
    with pytest.raises(AnnotationError, match="drawn on 60x40 pixels, but the frame is 30x20"):
        PolygonCodec().objects(path, SIZE)
