"""Label maps of every kind: what their values mean, and the same for conversion and refinement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vmt.data.label_maps import find_scheme, is_bitmask, read_labels, write_labels_like
from vmt.utils.errors import AnnotationError, VideoError

Labels = npt.NDArray[Any]
SIZE = (12, 16)


def blocks(*values: int, dtype: Any = np.uint8) -> Labels:
    """A column of 4x4 blocks per value."""
    labels = np.zeros(SIZE, dtype)
    for k, value in enumerate(values):
        labels[4:8, 4 * k : 4 * k + 4] = value
    return labels


def palette(labels: Labels) -> Image.Image:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([7 * k % 256 for k in range(768)])
    return image


def colours(labels: Labels, *table: tuple[int, int, int]) -> Labels:
    return np.array([(0, 0, 0), *table], np.uint8)[labels]


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, masks=content)
    else:
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(path)
    return path


def opaque(rgb: Labels) -> Labels:
    return np.concatenate([rgb, np.full((*SIZE, 1), 255, np.uint8)], axis=2)


RED, BLUE = (200, 0, 0), (0, 0, 90)
KINDS: dict[str, tuple[str, Callable[[], Any], tuple[int, int]]] = {
    "grey": ("a.png", lambda: blocks(1, 2), (1, 2)),
    "palette": ("a.png", lambda: palette(blocks(1, 2)), (1, 2)),
    "1 bit": ("a.png", lambda: blocks(1, 1) > 0, (1, 1)),
    "16 bits": ("a.png", lambda: blocks(3, 300, dtype=np.uint16), (3, 300)),
    "tif": ("a.tif", lambda: blocks(1, 2), (1, 2)),
    "tif of 32 bits": ("a.tif", lambda: blocks(1, 70_000, dtype=np.int32), (1, 70_000)),
    "tif of floats": ("a.TIFF", lambda: blocks(1, 2, dtype=np.float32), (1, 2)),
    "bmp": ("a.bmp", lambda: blocks(1, 2), (1, 2)),
    "npy": ("a.npy", lambda: blocks(1, 2, dtype=np.int64), (1, 2)),
    "npz of bool": ("a.npz", lambda: blocks(1, 1) > 0, (1, 1)),
    "npz with an axis more": ("a.npz", lambda: blocks(1, 2)[None], (1, 2)),
    "colours": ("a.png", lambda: colours(blocks(1, 2), RED, BLUE), (0xC80000, 0x5A)),
    "grey colours": ("a.png", lambda: colours(blocks(1, 1), (255,) * 3), (0xFFFFFF, 0xFFFFFF)),
    "opaque": ("a.png", lambda: opaque(colours(blocks(1, 2), RED, BLUE)), (0xC80000, 0x5A)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(tmp_path: Path, kind: str) -> None:
    name, make, values = KINDS[kind]
    path = save(tmp_path / name, make())
    labels = read_labels(path)
    np.testing.assert_array_equal(labels, blocks(*values, dtype=np.int64))

    # Written again with one pixel less: read as that, and of the same kind.
    less = labels.copy()
    less[4, 4] = 0
    again = tmp_path / f"again{path.suffix}"
    again.write_bytes(write_labels_like(path, less))
    np.testing.assert_array_equal(read_labels(again), less)
    if path.suffix in (".npy", ".npz"):
        before, after = np.load(path), np.load(again)
        if path.suffix == ".npz":
            assert before.files == after.files
            before, after = before["masks"], after["masks"]
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
    else:
        with Image.open(path) as old, Image.open(again) as new:
            assert (old.mode, old.format) == (new.mode, new.format)
            assert old.getpalette() == new.getpalette()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tif", blocks(1, 2).astype(np.float32) / 2, "holds values from 0.0 to 1.0"),
        ("a.npy", blocks(1, 2).astype(np.int16) - 1, "holds values from -1 to 1"),
        ("a.npy", np.zeros((3, *SIZE), np.uint8), r"shape \(3, 12, 16\)"),
        ("a.png", np.arange(192, dtype=np.uint8).reshape(SIZE), "has 191 different values"),
        ("a.png", opaque(colours(blocks(1), RED)) - 1, "is partly transparent"),
    ],
)
def test_what_is_no_label_map(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        read_labels(save(tmp_path / name, content))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(b"PK\3\4 no")
        with pytest.raises(VideoError, match=f"{name}: cannot be read as a label map"):
            read_labels(tmp_path / name)
    np.savez(tmp_path / "b.npz", x=blocks(1), y=blocks(2))
    with pytest.raises(VideoError, match="it has the arrays x, y; one is needed"):
        read_labels(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array([{}]))
    with pytest.raises(VideoError, match=r"c.npy: cannot be read"):
        read_labels(tmp_path / "c.npy")


MEANINGS: dict[str, tuple[list[Any], dict[int, str], str]] = {
    # maps of a set -> object -> class, and a piece of what is said
    "void": ([blocks(255), blocks(1, 255)], {1: "object"}, ""),
    "only 255": ([blocks(), blocks(255)], {255: "object"}, "Its only value is 255"),
    "white": ([colours(blocks(1), (255,) * 3)], {0xFFFFFF: "object"}, "Its only value is 255"),
    "white is void among greys": (
        [colours(blocks(1, 2), (255,) * 3, (9,) * 3)],
        {0x090909: "object"},
        "",
    ),
    "white is an object among colours": (
        [colours(blocks(1, 2, 3), (255,) * 3, RED, (224, 224, 192))],
        {0xC80000: "object", 0xFFFFFF: "object"},
        "",
    ),
    "16 bits": ([blocks(3, 255, 300, dtype=np.uint16)], dict.fromkeys((3, 255, 300), "object"), ""),
    "16 bits, void": ([blocks(3, 65535, dtype=np.uint16)], {3: "object"}, ""),
    "16 bits, one": (
        [blocks(65535, dtype=np.uint16)],
        {65535: "object"},
        "Its only value is 65535",
    ),
    "MOTS": (
        [blocks(1001, dtype=np.uint16), blocks(2003, 10000, dtype=np.uint16)],
        {1001: "car", 2003: "pedestrian"},
        "class * 1000 + instance: car, pedestrian; 10000 is ignored.",
    ),
    "other classes": (
        [blocks(1001, 7012, 10000, dtype=np.uint16)],
        {1001: "class_1", 7012: "class_7", 10000: "class_10"},
        "class_1, class_7, class_10.",
    ),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_values_mean(tmp_path: Path, case: str) -> None:
    maps, objects, said = MEANINGS[case]
    paths = [save(tmp_path / f"{k}.png", content) for k, content in enumerate(maps)]
    scheme = find_scheme(paths)
    values = {value for path in paths for value in scheme.values(read_labels(path))}
    assert {value: scheme.category(value) for value in sorted(values)} == objects
    assert said in scheme.note
    assert bool(said) == bool(scheme.note)


def test_names_of_objects(tmp_path: Path) -> None:
    scheme = find_scheme([save(tmp_path / "a.png", colours(blocks(1), RED))])
    assert scheme.label(0xC80000) == "object #c80000"
    assert find_scheme([]).label(7) == "object 7"
    mots = find_scheme([save(tmp_path / "b.png", blocks(2003, 2004, dtype=np.uint16))])
    assert mots.label(2003) == "pedestrian 3"


def test_16_bits_that_may_be_either(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", blocks(7, 26001, dtype=np.uint16))
    with pytest.raises(AnnotationError, match=r"below 1000 .such as 7. and above .such as 26001"):
        find_scheme([path])


def test_bitmasks_use_their_alpha(tmp_path: Path) -> None:
    rgba = opaque(colours(blocks(1), RED))
    assert not is_bitmask(save(tmp_path / "a.png", rgba))
    rgba[..., 3] = blocks(9)
    assert is_bitmask(save(tmp_path / "b.png", rgba))
    assert not is_bitmask(save(tmp_path / "c.png", blocks(1)))


def test_numbers_of_8_16_and_1_bit(tmp_path: Path) -> None:
    ramp = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(ramp).save(tmp_path / "8.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "8.png"), ramp)
    Image.fromarray(ramp.astype(np.uint16) * 100).save(tmp_path / "16.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "16.png"), ramp.astype(int) * 100)
    Image.fromarray(ramp > 20).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "1.png"), ramp > 20)
    with pytest.raises(VideoError, match=r"none.png: no such file"):
        read_labels(tmp_path / "none.png")
