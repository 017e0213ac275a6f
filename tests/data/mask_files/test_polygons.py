import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.mask_files.changes import change
from vmt.data.mask_files.polygons import PolygonCodec
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
    codec = PolygonCodec()
    assert codec.survey((path,), SIZE) == "1 shapes that are no polygons are left alone."
    found = codec.read(path, SIZE)
    keys = list(found)
    assert keys == ["dog", "dog #2", "cat (group 3)"]
    masks = list(found.values())
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
    content = PolygonCodec().rewrite(path, {"dog": change(mask, 0.9), "cat": change(None, 0.9)})
    after = json.loads(content)
    assert after["imageData"] == "abc"
    assert after["shapes"][-1] == other
    first, second = after["shapes"][:2]
    # Two pieces of one object are one group.
    assert first["group_id"] == second["group_id"] == 1
    assert first["flags"] == {"y": 1}
    again = tmp_path / "b.json"
    again.write_bytes(content)
    found = PolygonCodec().read(again, SIZE)["dog"]
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
        new = {"dog": change(mask, 0.9), "dog #2": change(None, 0.9)}
        path.write_bytes(PolygonCodec().rewrite(path, new))
        assert list(PolygonCodec().read(path, SIZE)) == ["dog", "dog #2"]
        first, second = PolygonCodec().read(path, SIZE).values()
        assert (first == mask).all()
        assert second[1:9, 20:28].all()
        assert second.sum() == 64


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"label": "a", "points": _box(40, 2, 5, 5)}, r"\(a\) lies outside the frame of 30x20"),
        ({"label": "a", "points": [1, 2, 3]}, "at least three"),
        ({"label": "a", "points": [[1, 1], [2, 2]], "shape_type": "mask"}, "is a mask, but"),
        ({"label": "a", "points": [[1, 1], [2, None], [3, 3]]}, "no coordinate"),
        ({"label": "a"}, r"shapes\[0\] is"),
    ],
)
def test_bad_polygons(tmp_path, shape, said):
    path = _write(tmp_path / "a.json", shape)
    with pytest.raises(AnnotationError, match=said):
        PolygonCodec().read(path, SIZE)


def test_partly_outside_is_cut_and_thinner_than_a_pixel_is_left_alone(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "cut", "points": _box(25, 15, 50, 50)},
        {"label": "thin", "points": _box(5.1, 5.1, 0.1, 0.1)},
    )
    assert {key: mask.sum() for key, mask in PolygonCodec().read(path, SIZE).items()} == {"cut": 25}


def test_drawn_on_another_size(tmp_path):
    shape = {"label": "a", "points": _box(1, 1, 5, 5)}
    path = _write(tmp_path / "a.json", shape, imageHeight=40, imageWidth=60)
    with pytest.raises(AnnotationError, match="drawn on 60x40 pixels, but the frame is 30x20"):
        PolygonCodec().read(path, SIZE)


def _ring_with_hole(tmp_path, *more):
    """A box of 10 x 10 whose middle 4 x 4 is a hole; a dog that reaches into the hole."""
    return _write(
        tmp_path / "a.json",
        {"label": "_background_", "points": _box(5, 5, 4, 4)},
        {"label": "wheel", "points": _box(2, 2, 10, 10)},
        {"label": "dog", "points": _box(8, 8, 12, 10)},
        {"label": "__ignore__", "points": _box(0, 0, 29, 19)},
        *more,
    )


def _wheel():
    wheel = np.zeros(SIZE, bool)
    wheel[2:12, 2:12] = True
    wheel[5:9, 5:9] = False
    return wheel


def test_a_hole_is_cut_from_what_it_lies_in(tmp_path):
    path = _ring_with_hole(tmp_path, {"label": "_background_", "points": _box(22, 1, 5, 5)})
    codec = PolygonCodec()
    assert codec.survey((path,), SIZE) == (
        "1 shapes labelled __ignore__ are no objects and are left alone. "
        "1 holes (_background_) lie in no object: a.json: shapes[4]."
    )
    assert list(codec.read(path, SIZE)) == ["wheel", "dog"]
    wheel, dog = codec.read(path, SIZE).values()
    assert (wheel == _wheel()).all()
    assert dog.sum() == 12 * 10  # one of its pixels is in the hole, which is not its own


@pytest.mark.parametrize("changed", ["wheel", "dog", "both"])
def test_a_hole_is_written_once(tmp_path, changed):
    path = _ring_with_hole(tmp_path)
    smaller = _wheel()
    smaller[5, 5] = True  # the refined hole is smaller than the one that was drawn
    dog = np.zeros(SIZE, bool)
    dog[9:18, 8:20] = True
    new = {
        "wheel": change(smaller if changed in ("wheel", "both") else None, 0.9),
        "dog": change(dog if changed in ("dog", "both") else None, 0.9),
    }
    path.write_bytes(PolygonCodec().rewrite(path, new))
    labels = [shape["label"] for shape in json.loads(path.read_text())["shapes"]]
    assert labels.count("__ignore__") == 1
    assert labels.count("_background_") == (changed == "dog")
    after = list(PolygonCodec().read(path, SIZE).values())
    assert (after[0] == (_wheel() if changed == "dog" else smaller)).all()
    assert after[1].sum() == (120 if changed == "wheel" else dog.sum())


def test_a_hole_of_two_objects_stays_one_of_the_other(tmp_path):
    path = _ring_with_hole(tmp_path, {"label": "cart", "points": _box(1, 1, 20, 15)})
    wheel = _wheel()
    wheel[2, 2] = False
    new = {"wheel": change(wheel, 0.9), "dog": change(None, 1), "cart": change(None, 1)}
    path.write_bytes(PolygonCodec().rewrite(path, new))
    after = PolygonCodec().read(path, SIZE)
    assert (after["wheel"] == wheel).all()
    assert after["cart"].sum() == 20 * 15 - 16
    assert not after["cart"][5:9, 5:9].any()


def test_rings_that_enclose_nothing_are_named_and_left_out(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "dog", "points": [[3, 3], [9, 9]]},
        {"label": "dog", "points": _box(1, 1, 5, 4)},
        {"label": "cat", "points": [[0, 0], [5, 5], [9, 9]], "group_id": 1},
        {"label": "cat", "points": _box(12, 1, 5, 4), "group_id": 1},
    )
    codec = PolygonCodec()
    assert list(codec.read(path, SIZE)) == ["dog", "cat (group 1)"]
    assert [m.sum() for m in codec.read(path, SIZE).values()] == [20, 20]
    assert codec.survey((path,), SIZE) == (
        "2 rings of fewer than three points or without area enclose nothing and are left out: "
        "a.json: shapes[0] (dog), a.json: shapes[2] (cat)."
    )


def test_a_mask_that_labelme_stores_as_a_picture(tmp_path):
    bits = np.zeros((4, 6), bool)
    bits[1:3, 2:] = True
    buffer = io.BytesIO()
    Image.fromarray(bits).save(buffer, format="PNG")
    coded = base64.b64encode(buffer.getvalue()).decode()
    shape = {"label": "dog", "shape_type": "mask", "mask": coded, "points": [[26, 3], [31, 6]]}
    path = _write(tmp_path / "a.json", shape)
    expected = np.zeros(SIZE, bool)
    expected[4:6, 28:30] = True  # cut at the right edge of the frame
    (found,) = PolygonCodec().read(path, SIZE).values()
    assert (found == expected).all()
    new = np.zeros(SIZE, bool)
    new[4:7, 25:30] = True
    path.write_bytes(PolygonCodec().rewrite(path, {"dog": change(new, 0.9)}))
    (written,) = json.loads(path.read_text())["shapes"]
    assert (written["shape_type"], written["mask"], written["label"]) == ("polygon", None, "dog")
    assert (PolygonCodec().read(path, SIZE)["dog"] == new).all()


def test_objects_that_a_file_lacks_are_added(tmp_path):
    path = _write(
        tmp_path / "a.json",
        {"label": "cat", "group_id": 3, "points": _box(20, 10, 5, 4)},
        imageData="AAAA",
    )
    two = np.zeros(SIZE, bool)
    two[1:4, 1:4] = two[8:12, 1:9] = True
    one = np.zeros(SIZE, bool)
    one[14:18, 20:28] = True
    new = {"dog": two, "dog #2": one, "bird (group 7)": np.roll(one, -10, 1), "cow (group x)": one}
    changes = {key: change(mask) for key, mask in new.items()}
    codec = PolygonCodec()
    again = tmp_path / "b.json"
    again.write_bytes(codec.rewrite(path, changes))
    found = codec.read(again, SIZE)
    assert list(found) == ["cat (group 3)", *new]
    assert all((found[key] == mask).all() for key, mask in new.items())
    ((target, content),) = codec.create([path], "c", changes)
    assert target == tmp_path / "c.json"
    target.write_bytes(content)
    found = codec.read(target, SIZE)
    assert list(found) == list(new)
    assert all((found[key] == mask).all() for key, mask in new.items())
    shapes = json.loads(content)["shapes"]
    assert [shape["label"] for shape in shapes] == ["dog", "dog", "dog", "bird", "cow"]
    assert json.loads(content)["imageData"] is None
