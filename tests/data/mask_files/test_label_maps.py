import io

import numpy as np
import pytest
from PIL import Image

from tests.data.mask_files.changes import change
from vmt.data.mask_files.label_maps import LabelMapCodec
from vmt.utils.errors import AnnotationError

SHAPE = (6, 8)


def _save(path, labels, mode="L"):
    image = Image.fromarray(labels if mode != "1" else labels.astype(bool))
    if mode == "P":
        image.putpalette([k % 256 for k in range(768)])
    image.save(path)
    return path


def _read(content):
    return np.array(Image.open(io.BytesIO(content)))


def _map():
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4] = 1
    labels[1:4, 4:7] = 2
    labels[5] = 255
    return labels


def _grown(value, *, rows=slice(0, 6), columns=slice(0, 8)):
    mask = _map() == value
    mask[rows, columns] = True
    return mask


def test_the_surer_object_is_on_top_and_void_stays(tmp_path):
    path = _save(tmp_path / "a.png", _map())
    new = {"1": change(_grown(1), 0.9), "2": change(_grown(2), 0.8)}
    labels = _read(LabelMapCodec().rewrite(path, new))
    assert (labels[5] == 255).all()
    # Object 2 is covered whole, so it keeps what it had.
    assert (labels[:5][_map()[:5] != 2] == 1).all()
    assert (labels[_map() == 2] == 2).all()
    part = {"1": change(_grown(1, columns=slice(0, 6)), 0.9), "2": change(None, 0.8)}
    labels = _read(LabelMapCodec().rewrite(path, part))
    assert (labels[1:4, 4:6] == 1).all()
    assert (labels[1:4, 6] == 2).all()
    # Of equals the lower number.
    new = {"1": change(_grown(1, columns=slice(0, 6)), 0.8), "2": change(_grown(2), 0.8)}
    labels = _read(LabelMapCodec().rewrite(path, new))
    assert (labels[:5, :6] == 1).all()
    assert (labels[:5, 6:] == 2).all()


def test_pixels_that_are_given_up_become_background(tmp_path):
    path = _save(tmp_path / "a.png", _map())
    less = _map() == 1
    less[1] = False
    labels = _read(LabelMapCodec().rewrite(path, {"1": change(less, 0.9)}))
    expected = _map()
    expected[1, 1:4] = 0
    assert (labels == expected).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_the_kind_of_png_stays(tmp_path, mode):
    labels = np.zeros(SHAPE, np.uint16 if mode == "I;16" else np.uint8)
    value = {"1": 1, "I;16": 3001}.get(mode, 7)
    labels[2:5, 2:6] = value
    path = _save(tmp_path / "a.png", labels, mode)
    smaller = np.zeros(SHAPE, bool)
    smaller[3, 3] = True
    content = LabelMapCodec().rewrite(path, {str(value): change(smaller, 0.9)})
    before, after = Image.open(path), Image.open(io.BytesIO(content))
    assert after.mode == before.mode
    assert after.getpalette() == before.getpalette()
    assert (np.array(after).astype(int) == smaller * value).all()


def test_255_is_an_object_where_there_is_no_other(tmp_path):
    masks = _map()
    void = _save(tmp_path / "void.png", masks)
    binary = _save(tmp_path / "binary.png", np.where(masks == 1, 255, 0).astype(np.uint8))
    empty = _save(tmp_path / "empty.png", np.zeros(SHAPE, np.uint8))

    files = (empty, binary)
    assert list(LabelMapCodec(files).read(binary, SHAPE)) == ["255"]
    assert "only value is 255" in LabelMapCodec(files).survey(files, SHAPE)
    assert list(LabelMapCodec((binary, void)).read(binary, SHAPE)) == []
    assert list(LabelMapCodec((void,)).read(void, SHAPE)) == ["1", "2"]
    insist = LabelMapCodec((binary,), 255, guess=False)
    assert list(insist.read(binary, SHAPE)) == []
    none = LabelMapCodec((void,), None, guess=False)
    assert list(none.read(void, SHAPE)) == ["1", "2", "255"]


def test_what_is_no_label_map(tmp_path):
    shades = _save(tmp_path / "grey.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    with pytest.raises(AnnotationError, match="199 different values, which are shades"):
        LabelMapCodec().read(shades, (10, 20))
    with pytest.raises(AnnotationError, match="is 8x6 pixels, but its frame is 4x4"):
        LabelMapCodec().read(_save(tmp_path / "a.png", _map()), (4, 4))
